// What limits gqmm::available_threads, for those who want to know why.
#pragma once

#include <optional>

namespace gqmm {

struct ThreadLimits {
  int affinity;                    ///< CPUs in the affinity mask
  std::optional<int> cgroup;       ///< the cgroup's CPU quota, rounded up
  std::optional<int> environment;  ///< OMP_NUM_THREADS
};

/// As they are now; available_threads keeps what it found at its first call.
[[nodiscard]] ThreadLimits thread_limits();

}  // namespace gqmm
