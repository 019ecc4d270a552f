// A team of threads for one call.
#pragma once

#include "cpu/float_environment.hpp"

#include <omp.h>

#include <exception>
#include <mutex>

namespace gqmm::cpu {

/// Runs phase one, then, when every thread has finished it, phase two, on up to `threads` threads, the caller's included; both
/// take the thread's number. Inside a caller's own parallel region there is no new team. Rethrows the first exception.
template <class One, class Two>
void run_phases(int threads, One one, Two two) {
  if (threads <= 1 || omp_in_parallel() != 0) {
    const FloatEnvironment environment;
    one(0);
    two(0);
    return;
  }
  std::exception_ptr error;
  std::mutex error_mutex;
  const auto guarded = [&](auto phase) {
    try {
      phase(omp_get_thread_num());
    } catch (...) {
      const std::lock_guard lock(error_mutex);
      error = std::current_exception();
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
