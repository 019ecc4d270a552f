#include "measure/pinned_thread.hpp"

#include <sched.h>

#include <cstring>

namespace gqmm::bench {

PinnedThread::PinnedThread(bool pin) {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  const int cpu = sched_getcpu();
  if (!pin || cpu < 0 || cpu >= CPU_SETSIZE || sched_getaffinity(0, sizeof mask, &mask) != 0) {
    return;
  }
  saved_mask_.resize(sizeof mask);
  std::memcpy(saved_mask_.data(), &mask, sizeof mask);
  CPU_ZERO(&mask);
  CPU_SET(static_cast<unsigned>(cpu), &mask);
  sched_setaffinity(0, sizeof mask, &mask);
}

PinnedThread::~PinnedThread() {
  if (!saved_mask_.empty()) {
    cpu_set_t mask;
    std::memcpy(&mask, saved_mask_.data(), sizeof mask);
    sched_setaffinity(0, sizeof mask, &mask);
  }
}

}  // namespace gqmm::bench
