// Hands out memory to GEMM tiles for prefetching. A tile prefetches at fixed points of its loop, up to two cache lines at each
// point. So the prefetches are spread over the arithmetic.
#pragma once

#include "cpu/kernels/kernel_table.hpp"

#include <algorithm>
#include <array>
#include <numeric>

namespace gqmm::cpu {

class PrefetchQueue {
 public:
  struct Lines {
    const std::byte* begin;
    int per_point;  // 0, 1 or 2
  };

  PrefetchQueue() = default;
  /// Hands out `ranges` evenly over `points` prefetch points. At most two lines go to each point, so what does not fit is never
  /// prefetched.
  PrefetchQueue(const PrefetchRanges& ranges, std::int64_t points)
      : ranges_{ranges.codes, ranges.scales, ranges.biases},
        per_point_(points == 0 ? 0 : std::min<std::int64_t>(2, (count() + points - 1) / points)) {}

  /// Returns the next lines for a call with `points` prefetch points. All of them are of one range. Some may lie beyond its end,
  /// where a prefetch is useless but harmless. When the queue is empty, it returns 0 lines per point at `anywhere`, which must be
  /// mapped memory. So kernels may prefetch without a test.
  Lines take(std::int64_t points, const std::byte* anywhere) {
    auto* range = std::find_if(ranges_.begin(), ranges_.end(), [](const MemoryRange& left) { return left.bytes >= line_bytes; });
    if (range == ranges_.end()) {
      return {anywhere, 0};
    }
    const std::byte* begin = range->begin;
    const std::int64_t bytes = std::min(range->bytes, per_point_ * points * line_bytes);
    range->begin += bytes;
    range->bytes -= bytes;
    return {begin, static_cast<int>(per_point_)};
  }

 private:
  [[nodiscard]] std::int64_t count() const {
    return std::accumulate(ranges_.begin(), ranges_.end(), std::int64_t{0},
                           [](std::int64_t sum, const MemoryRange& range) { return sum + range.bytes / line_bytes; });
  }

  std::array<MemoryRange, 3> ranges_ = {};
  std::int64_t per_point_ = 0;
};

}  // namespace gqmm::cpu
