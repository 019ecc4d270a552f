// Prefetches, one at a time between the arithmetic. A burst fills the miss buffers and what follows waits for them: memory and
// arithmetic then take turns.
#pragma once

#include "cpu/kernels/kernel_table.hpp"

namespace gqmm::cpu {
namespace {

template <class V>
void prefetch(const std::byte* address, bool to_l2) {
  if (to_l2) {
    V::prefetch_l2(address);
  } else {
    V::prefetch(address);
  }
}

/// Walks through a run of memory in equal steps of at most a line, in as many calls as the caller has room for.
template <class V>
class Prefetcher {
 public:
  /// Walks nowhere; `anywhere` is memory that may be read.
  explicit Prefetcher(const std::byte* anywhere) : at_(anywhere) {}
  Prefetcher(Run run, std::int64_t calls, const std::byte* anywhere, bool to_l2)
      : at_(run.bytes == 0 ? anywhere : run.begin), step_((run.bytes + calls - 1) / calls), to_l2_(to_l2) {}

  void next() {
    prefetch<V>(at_, to_l2_);
    at_ += step_;
  }
  void skip(std::int64_t calls) { at_ += calls * step_; }

 private:
  const std::byte* at_;
  std::int64_t step_ = 0;
  bool to_l2_ = false;
};

/// The same for a run of which a call's part may be much less than a line: most calls do nothing.
template <class V>
class SparsePrefetcher {
 public:
  SparsePrefetcher(Run run, std::int64_t calls, bool to_l2) : begin_(run.begin), step_(run.bytes / calls), to_l2_(to_l2) {}

  void next() {
    if (offset_ % line_bytes < step_) {
      prefetch<V>(begin_ + offset_, to_l2_);
    }
    offset_ += step_;
  }

 private:
  static constexpr std::int64_t line_bytes = 64;
  const std::byte* begin_;
  std::int64_t offset_ = 0;
  std::int64_t step_;
  bool to_l2_;
};

}  // namespace
}  // namespace gqmm::cpu
