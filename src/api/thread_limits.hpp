// What limits gqmm::available_threads, for those who want to know why.
#pragma once

#include <gqmm/export.hpp>

#include <optional>
#include <string>

namespace gqmm {

struct ThreadLimits {
  int affinity;                    ///< CPUs in the affinity mask
  std::optional<int> cgroup;       ///< the cgroup's CPU quota, rounded up
  std::optional<int> environment;  ///< OMP_NUM_THREADS
};

/// The tightest CPU quota of this process's cgroup and those above it, of version 1 or 2, rounded up to whole CPUs; nullopt:
/// none. `root` goes before /proc and /sys.
[[nodiscard]] std::optional<int> cgroup_threads(const std::string& root = {});

/// As they are now; available_threads keeps what it found at its first call.
[[nodiscard]] GQMM_API ThreadLimits thread_limits();

}  // namespace gqmm
