// Prefetching one line at a time, between the arithmetic. A burst of prefetches would fill the miss buffers, and the loads behind
// it would wait. Memory and arithmetic would then take turns instead of running at the same time.
#pragma once

#include "assertion.hpp"
#include "cpu/kernels/kernel_table.hpp"

namespace gqmm::cpu {
namespace {

/// Prefetches the line at `address`. If `to_l2` is true, it goes to L2 only, and the line `to_far` bytes further on is
/// prefetched, too. Processors with this setting drop prefetches while their miss buffers are full, and the arithmetic waits for
/// DRAM for every missing line. So each line is prefetched twice: two strips before its use and again one strip before.
template <class V>
void prefetch(const std::byte* address, std::int64_t to_far, bool to_l2) {
  if (to_l2) {
    V::prefetch_l2(address + to_far);
    V::prefetch_l2(address);
  } else {
    V::prefetch(address);
  }
}

/// The distance from the near range to the far one, or 0 if one of them is empty.
inline std::int64_t distance(MemoryRange near, MemoryRange far) {
  return near.bytes == 0 || far.bytes == 0 ? 0 : far.begin - near.begin;
}

/// Prefetches a range of memory in equal steps of at most a line, one step in each call of next().
template <class V>
class Prefetcher {
 public:
  /// `calls` is the number of calls that walk through the whole range. If the near range is empty, every call prefetches
  /// `anywhere`, which must be memory that may be read.
  Prefetcher(MemoryRange near, MemoryRange far, std::int64_t calls, const std::byte* anywhere, bool to_l2)
      : at_(near.bytes == 0 ? anywhere : near.begin),
        to_far_(distance(near, far)),
        step_((near.bytes + calls - 1) / calls),
        to_l2_(to_l2) {
    GQMM_ASSERT(calls >= 1);
  }

  void next() {
    prefetch<V>(at_, to_far_, to_l2_);
    at_ += step_;
  }

 private:
  const std::byte* at_;
  std::int64_t to_far_;
  std::int64_t step_;
  bool to_l2_;
};

/// The same for a small range, of which a call's step may be much shorter than a line. Most calls then do nothing.
template <class V>
class SparsePrefetcher {
 public:
  SparsePrefetcher(MemoryRange near, MemoryRange far, std::int64_t calls, bool to_l2)
      : begin_(near.begin), to_far_(distance(near, far)), step_(near.bytes / calls), to_l2_(to_l2) {
    GQMM_ASSERT(calls >= 1);
  }

  void next() {
    if (offset_ % line_bytes < step_) {
      prefetch<V>(begin_ + offset_, to_far_, to_l2_);
    }
    offset_ += step_;
  }

 private:
  const std::byte* begin_;
  std::int64_t offset_ = 0;
  std::int64_t to_far_;
  std::int64_t step_;
  bool to_l2_;
};

}  // namespace
}  // namespace gqmm::cpu
