// Prefetches rows of memory beside the arithmetic of a kernel.
#pragma once

#include "cpu/kernels/attention_table.hpp"

namespace gqmm::cpu {
namespace {

/// Prefetches the lines of some rows into L2, one line in each call.
template <class V>
class RowPrefetcher {
 public:
  explicit RowPrefetcher(const RowRange& range)
      : row_(range.first),
        at_(range.first),
        row_end_(range.first + (range.rows == 0 ? 0 : range.row_bytes)),
        stride_(range.stride),
        rows_(range.rows) {}

  [[gnu::always_inline]] void next() {
    if (rows_ > 0) {
      V::prefetch_l2(at_);
      at_ += line_bytes;
      if (at_ >= row_end_) {
        row_ += stride_;
        row_end_ += stride_;
        at_ = row_;
        --rows_;
      }
    }
  }

 private:
  const std::byte* row_;
  const std::byte* at_;
  const std::byte* row_end_;
  std::int64_t stride_;
  std::int64_t rows_;
};

}  // namespace
}  // namespace gqmm::cpu
