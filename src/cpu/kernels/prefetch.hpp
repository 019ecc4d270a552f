// Prefetches, one at a time between the arithmetic. A burst fills the miss buffers and what follows waits for them: memory and
// arithmetic then take turns.
#pragma once

#include "cpu/kernels/kernel_table.hpp"

namespace gqmm::cpu {
namespace {

/// Walks through a run of memory in equal steps of at most a line, in as many calls as the caller has room for.
template <class V>
class Prefetcher {
 public:
  /// Walks nowhere; `anywhere` is memory that may be read.
  explicit Prefetcher(const std::byte* anywhere) : at_(anywhere) {}
  Prefetcher(Run run, std::int64_t calls, const std::byte* anywhere)
      : at_(run.bytes == 0 ? anywhere : run.begin), step_((run.bytes + calls - 1) / calls) {}

  void next() {
    V::prefetch(at_);
    at_ += step_;
  }
  void skip(std::int64_t calls) { at_ += calls * step_; }

 private:
  const std::byte* at_;
  std::int64_t step_ = 0;
};

/// The same for a run of which a call's part may be much less than a line: most calls do nothing.
template <class V>
class SparsePrefetcher {
 public:
  SparsePrefetcher(Run run, std::int64_t calls) : begin_(run.begin), step_(run.bytes / calls) {}

  void next() {
    if (offset_ % line_bytes < step_) {
      V::prefetch(begin_ + offset_);
    }
    offset_ += step_;
  }

 private:
  static constexpr std::int64_t line_bytes = 64;
  const std::byte* begin_;
  std::int64_t offset_ = 0;
  std::int64_t step_;
};

}  // namespace
}  // namespace gqmm::cpu
