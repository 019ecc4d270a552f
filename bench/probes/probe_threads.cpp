#include "probes/probe_threads.hpp"

#include <chrono>

namespace gqmm::bench {

ProbeThreads::ProbeThreads(int count) : count_(count) {
  for (int thread = 1; thread < count; ++thread) {
    others_.emplace_back([this, thread] { serve(thread); });
  }
}

ProbeThreads::~ProbeThreads() {
  {
    const std::lock_guard lock(mutex_);
    ends_ = true;
  }
  changed_.notify_all();
  for (std::thread& other : others_) {
    other.join();
  }
}

double ProbeThreads::seconds_of(const std::function<void(int thread)>& work) {
  {
    const std::lock_guard lock(mutex_);
    work_ = &work;
    ++measurement_;
  }
  changed_.notify_all();
  meet(2 * measurement_ - 1);
  const auto start = std::chrono::steady_clock::now();
  work(0);
  meet(2 * measurement_);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void ProbeThreads::serve(int thread) {
  for (std::int64_t seen = 0;;) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return ends_ || measurement_ != seen; });
    if (ends_) {
      return;
    }
    seen = measurement_;
    const std::function<void(int thread)>& work = *work_;
    lock.unlock();
    meet(2 * seen - 1);
    work(thread);
    meet(2 * seen);
  }
}

void ProbeThreads::meet(std::int64_t meeting) {
  arrived_.fetch_add(1);
  while (arrived_.load() < meeting * count_) {
  }
}

}  // namespace gqmm::bench
