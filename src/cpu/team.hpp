// A team of threads for one call, and work shared out among them.
#pragma once

#include "cpu/float_environment.hpp"

#include <omp.h>

#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>

namespace gqmm::cpu {

/// Positions 0 … count − 1, handed out in order to whoever asks.
class WorkQueue {
 public:
  explicit WorkQueue(std::int64_t count) : count_(count) {}
  /// Calls work(position) until none is left.
  template <class Work>
  void drain(Work work) {
    for (std::int64_t i = next_.fetch_add(1, std::memory_order_relaxed); i < count_;
         i = next_.fetch_add(1, std::memory_order_relaxed)) {
      work(i);
    }
  }

 private:
  std::int64_t count_;
  std::atomic<std::int64_t> next_{0};
};

/// Runs phase one, then, when every thread has finished it, phase two, on up to `threads` threads, the caller's included. Inside
/// a caller's own parallel region there is no new team. Rethrows the first exception.
template <class One, class Two>
void run_phases(int threads, One one, Two two) {
  if (threads <= 1 || omp_in_parallel() != 0) {
    const FloatEnvironment environment;
    one();
    two();
    return;
  }
  std::exception_ptr error;
  std::mutex error_mutex;
  const auto guarded = [&](auto phase) {
    try {
      phase();
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
