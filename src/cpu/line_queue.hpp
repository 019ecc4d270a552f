// Weights that will be wanted soon, prefetched by tiles of a GEMM: a line or two in each of their units.
#pragma once

#include "cpu/kernels/kernel_table.hpp"

#include <algorithm>
#include <array>
#include <numeric>

namespace gqmm::cpu {

class LineQueue {
 public:
  struct Lines {
    const std::byte* begin;
    int per_unit;  // 0, 1 or 2
  };

  LineQueue() = default;
  /// To be handed out within `units` units, as far as two lines to each go.
  LineQueue(const Ahead& ahead, std::int64_t units)
      : runs_{ahead.codes, ahead.scales, ahead.biases},
        per_unit_(units == 0 ? 0 : std::min<std::int64_t>(2, (count() + units - 1) / units)) {}

  /// The next lines, of a run; some may lie beyond its end, where prefetching them is useless but does no harm. Once there are
  /// none, none, of memory that is mapped.
  Lines take(std::int64_t units, const std::byte* anywhere) {
    auto* run = std::find_if(runs_.begin(), runs_.end(), [](const Run& left) { return left.bytes >= line_bytes; });
    if (run == runs_.end()) {
      return {anywhere, 0};
    }
    const std::byte* begin = run->begin;
    const std::int64_t bytes = std::min(run->bytes, per_unit_ * units * line_bytes);
    run->begin += bytes;
    run->bytes -= bytes;
    return {begin, static_cast<int>(per_unit_)};
  }

 private:
  [[nodiscard]] std::int64_t count() const {
    return std::accumulate(runs_.begin(), runs_.end(), std::int64_t{0},
                           [](std::int64_t sum, const Run& run) { return sum + run.bytes / line_bytes; });
  }

  std::array<Run, 3> runs_ = {};
  std::int64_t per_unit_ = 0;
};

}  // namespace gqmm::cpu
