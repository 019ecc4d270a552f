// A team of threads for one call.
#pragma once

#include "cpu/float_environment.hpp"

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>

namespace gqmm::cpu {

/// How many of `wanted` threads a team that starts here has. Within a parallel region of the caller's that is one: its threads
/// have the processors already. Calls are planned for so many: of a thread that does not come, another would walk through the
/// share backwards.
inline int team_size(int wanted) { return omp_in_parallel() != 0 ? 1 : std::min(wanted, omp_get_thread_limit()); }

/// Runs phase one, then, when every thread has finished it, phase two, on up to `threads` threads, the caller's included; both
/// take the thread's number. Where phase one throws there is no phase two. Rethrows the first exception.
template <class One, class Two>
void run_phases(int threads, One one, Two two) {
  if (threads <= 1) {
    const FloatEnvironment environment;
    one(0);
    two(0);
    return;
  }
  std::exception_ptr error;
  std::mutex error_mutex;
  std::atomic<bool> failed = false;
  const auto guarded = [&](auto phase) {
    if (failed) {
      return;
    }
    try {
      phase(omp_get_thread_num());
    } catch (...) {
      const std::lock_guard lock(error_mutex);
      error = failed.exchange(true) ? error : std::current_exception();
    }
  };
#pragma omp parallel num_threads(threads)
  {
    const FloatEnvironment environment;
    guarded(one);
#pragma omp barrier
    guarded(two);
  }
  if (error) {
    std::rethrow_exception(error);
  }
}

}  // namespace gqmm::cpu
