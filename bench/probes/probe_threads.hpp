// Threads that begin a measurement at the same moment.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace gqmm::bench {

/// The calling thread and further threads, which sleep between two measurements.
class ProbeThreads {
 public:
  /// `count` is the number of threads, the calling thread included.
  explicit ProbeThreads(int count);
  ~ProbeThreads();
  ProbeThreads(const ProbeThreads&) = delete;
  ProbeThreads& operator=(const ProbeThreads&) = delete;

  /// Runs work(thread) on every thread. Returns the seconds from the moment when all threads are ready until the last one has
  /// finished.
  double seconds_of(const std::function<void(int thread)>& work);

 private:
  void serve(int thread);
  /// Waits until every thread has arrived at this meeting. The first meeting has the number 1. The wait spins, because a thread
  /// that slept would continue tens of microseconds later than the others.
  void meet(std::int64_t meeting);

  const int count_;
  std::atomic<std::int64_t> arrived_{0};  // the number of arrivals at all meetings together
  std::mutex mutex_;
  std::condition_variable changed_;
  const std::function<void(int thread)>* work_ = nullptr;
  std::int64_t measurement_ = 0;
  bool ends_ = false;
  std::vector<std::thread> others_;
};

}  // namespace gqmm::bench
