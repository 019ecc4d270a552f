// Prefetches, one at a time between the arithmetic. A burst fills the miss buffers and what follows waits for them: memory and
// arithmetic then take turns.
#pragma once

#include "cpu/kernels/kernel_table.hpp"

namespace gqmm::cpu {
namespace {

/// The line at `address`, and where prefetches stop at L2, the one `to_after` bytes further on, too. Such a processor drops
/// prefetches while its miss buffers are full, and for every line that is missing the arithmetic waits for DRAM: so each line is
/// asked for twice, two strips ahead and again later.
template <class V>
void prefetch(const std::byte* address, std::int64_t to_after, bool to_l2) {
  if (to_l2) {
    V::prefetch_l2(address + to_after);
    V::prefetch_l2(address);
  } else {
    V::prefetch(address);
  }
}

/// From the next strip's run to the one after it; 0 if there is none.
inline std::int64_t distance(Run next, Run after) { return next.bytes == 0 || after.bytes == 0 ? 0 : after.begin - next.begin; }

/// Walks through a run of memory in equal steps of at most a line, in as many calls as the caller has room for.
template <class V>
class Prefetcher {
 public:
  /// Walks nowhere; `anywhere` is memory that may be read.
  explicit Prefetcher(const std::byte* anywhere) : at_(anywhere) {}
  Prefetcher(Run next, Run after, std::int64_t calls, const std::byte* anywhere, bool to_l2)
      : at_(next.bytes == 0 ? anywhere : next.begin),
        to_after_(distance(next, after)),
        step_((next.bytes + calls - 1) / calls),
        to_l2_(to_l2) {}

  void next() {
    prefetch<V>(at_, to_after_, to_l2_);
    at_ += step_;
  }
  void skip(std::int64_t calls) { at_ += calls * step_; }

 private:
  const std::byte* at_;
  std::int64_t to_after_ = 0;
  std::int64_t step_ = 0;
  bool to_l2_ = false;
};

/// The same for a run of which a call's part may be much less than a line: most calls do nothing.
template <class V>
class SparsePrefetcher {
 public:
  SparsePrefetcher(Run next, Run after, std::int64_t calls, bool to_l2)
      : begin_(next.begin), to_after_(distance(next, after)), step_(next.bytes / calls), to_l2_(to_l2) {}

  void next() {
    if (offset_ % line_bytes < step_) {
      prefetch<V>(begin_ + offset_, to_after_, to_l2_);
    }
    offset_ += step_;
  }

 private:
  const std::byte* begin_;
  std::int64_t offset_ = 0;
  std::int64_t to_after_;
  std::int64_t step_;
  bool to_l2_;
};

}  // namespace
}  // namespace gqmm::cpu
