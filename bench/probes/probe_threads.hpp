// Threads that begin to measure at the same moment.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace gqmm::bench {

/// The caller and further threads, which sleep between two measurements.
class ProbeThreads {
 public:
  /// `count`: the caller included.
  explicit ProbeThreads(int count);
  ~ProbeThreads();
  ProbeThreads(const ProbeThreads&) = delete;
  ProbeThreads& operator=(const ProbeThreads&) = delete;

  /// Runs work(thread) on every thread. Returns the seconds from when all of them were there until the last had finished.
  double seconds_of(const std::function<void(int thread)>& work);

 private:
  void serve(int thread);
  /// Waits until every thread has come to this meeting, the first being number 1. Spins, for a thread that slept would go on tens
  /// of microseconds later than the others.
  void meet(std::int64_t meeting);

  const int count_;
  std::atomic<std::int64_t> arrived_{0};  // threads, over all meetings
  std::mutex mutex_;
  std::condition_variable changed_;
  const std::function<void(int thread)>* work_ = nullptr;
  std::int64_t measurement_ = 0;
  bool ends_ = false;
  std::vector<std::thread> others_;
};

}  // namespace gqmm::bench
