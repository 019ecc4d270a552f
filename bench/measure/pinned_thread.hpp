// A thread that stays on one processor.
#pragma once

#include <cstddef>
#include <vector>

namespace gqmm::bench {

/// Keeps the calling thread on its current CPU while this object lives. So a one-thread case and its probes run on the same core.
class PinnedThread {
 public:
  explicit PinnedThread(bool pin);
  ~PinnedThread();
  PinnedThread(const PinnedThread&) = delete;
  PinnedThread& operator=(const PinnedThread&) = delete;

 private:
  std::vector<std::byte> saved_mask_;  // empty if there is nothing to restore
};

}  // namespace gqmm::bench
