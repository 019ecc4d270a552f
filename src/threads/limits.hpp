// How many threads a call may have, and why.
#pragma once

#include "threads/environment.hpp"
#include "threads/processor_set.hpp"

#include <gqmm/export.hpp>

#include <optional>

namespace gqmm::threads {

/// Everything that limits the threads of a call, for `gqmm info`.
struct ThreadLimits {
  int affinity = 1;                     ///< processors that the calling thread may use, before an OpenMP runtime bound it
  std::optional<double> cgroup_quota;   ///< processors' worth of time
  std::optional<int> gqmm_num_threads;  ///< GQMM_NUM_THREADS
  OmpNumThreads omp_num_threads;        ///< OMP_NUM_THREADS, which counts where GQMM_NUM_THREADS is not set

  /// The smallest of them; a quota is rounded up.
  [[nodiscard]] int threads() const;
};

/// The limits as they are now. Throws std::invalid_argument if GQMM_NUM_THREADS has a wrong value.
[[nodiscard]] GQMM_API ThreadLimits thread_limits();

/// Throws std::invalid_argument if GQMM_NUM_THREADS has a wrong value. Takes a few nanoseconds.
void check_environment();

/// The part of the machine that the process may use.
struct Processors {
  ProcessorSet set;                 ///< of the calling thread, before an OpenMP runtime bound it
  std::optional<double> quota;      ///< processors' worth of time
  [[nodiscard]] int count() const;  ///< of `set`, at most the quota rounded up
};

/// As Processors are now; a changed quota and newly loaded OpenMP runtimes are seen within a second, a changed affinity mask at
/// once.
[[nodiscard]] Processors usable_processors();

}  // namespace gqmm::threads
