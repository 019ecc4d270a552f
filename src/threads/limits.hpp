// How many threads a call may have, and why.
#pragma once

#include "internal_api.hpp"
#include "threads/environment.hpp"
#include "threads/processor_set.hpp"

#include <optional>

namespace gqmm::threads {

/// Everything that limits the threads of a call, for `gqmm info`.
struct ThreadLimits {
  int affinity = 1;                     ///< processors that the calling thread could use before an OpenMP runtime bound it
  std::optional<double> cgroup_quota;   ///< the time that the control groups grant, in processors
  std::optional<int> gqmm_num_threads;  ///< GQMM_NUM_THREADS
  OmpNumThreads omp_num_threads;        ///< OMP_NUM_THREADS, which counts if GQMM_NUM_THREADS is not set

  /// The smallest of these limits. A quota is rounded up.
  [[nodiscard]] int threads() const;
};

/// The limits as they are now. Throws std::invalid_argument if GQMM_NUM_THREADS has a wrong value.
[[nodiscard]] GQMM_INTERNAL_API ThreadLimits thread_limits();

/// Throws std::invalid_argument if GQMM_NUM_THREADS has a wrong value. This takes a few nanoseconds.
void check_environment();

/// The part of the machine that the process may use.
struct Processors {
  ProcessorSet set;                 ///< those that the calling thread could use before an OpenMP runtime bound it; those of its
                                    ///< memory node within a NodeBinding
  std::optional<double> quota;      ///< the time that the control groups grant, in processors
  [[nodiscard]] int count() const;  ///< how many processors `set` has, at most the quota rounded up
};

/// The processors as they are now. A changed affinity mask is seen at once. A changed quota and newly loaded OpenMP runtimes are
/// seen within a second.
[[nodiscard]] Processors usable_processors();

}  // namespace gqmm::threads
