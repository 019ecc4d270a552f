// The integer path of a product: decode (GEMV), and GEMM tiles over a panel of codes.
#include "cpu/expert_product.hpp"
#include "cpu/prefetch_queue.hpp"
#include "cpu/processor.hpp"
#include "cpu/strip_prefetch.hpp"

#include <algorithm>
#include <array>

namespace gqmm::cpu {
// Multiplies each strip by as many rows in a pass as a kernel takes, while the strip is in L1.
void ExpertProduct::integer_gemv(const ItemWork& work, const Item* next) const {
  const Item& item = work.item;
  const auto& kernels = weights_.format_kernels().gemv[plan_.slices - 1];
  const std::int64_t rows_of_pass = plan_.limits.gemv_rows;
  const std::int64_t passes = (item.rows + rows_of_pass - 1) / rows_of_pass;
  std::array<const std::int32_t*, max_gemv_rows> x = {};
  std::array<const float*, max_gemv_rows> x_scales = {};
  GemvArguments arguments;
  arguments.group_size = weights_.quantized()->group_size();
  arguments.K = weights_.K();
  arguments.x = x.data();
  arguments.x_scales = x_scales.data();
  arguments.c_stride = work.c_stride;
  std::size_t rows = 0;
  const auto set_rows = [&](std::int64_t first) {
    const std::int64_t left = std::min(rows_of_pass, item.rows - first);
    // Computing one row twice is cheaper than a kernel for three rows.
    rows = static_cast<std::size_t>(left == 3 ? 4 : left);
    for (std::size_t r = 0; r < rows; ++r) {
      const std::int64_t x_row = work.rows[std::min(static_cast<std::size_t>(first) + r, work.rows.size() - 1)];
      x[r] = rows_.words(x_row);
      x_scales[r] = rows_.scales(x_row);
    }
  };
  const auto multiply = [&](std::int64_t s, std::int64_t pass) {
    const std::int64_t first = pass * rows_of_pass;
    if (s == 0 || passes > 1) {
      set_rows(first);
    }
    arguments.c = work.row(first) + s * lanes;
    work.exceptional_lanes[static_cast<std::size_t>(s)] = kernels[rows - 1](arguments);
  };
  for_each_strip(weights_, item, next, passes, processor().decode_prefetches_to_l2, arguments.stream, multiply);
}

void ExpertProduct::integer_gemm(const ItemWork& work, const Item* next) const {
  const Item& item = work.item;
  const std::int64_t width = plan_.limits.gemm_tile.nv;
  const UpcomingStrips upcoming(weights_, item, next);
  for (std::int64_t s = 0; s < item.strips; s += width) {
    multiply_panel(work, s, std::min(width, item.strips - s), upcoming.ranges(s + width, width));
  }
}

/// Multiplies all rows of the item by `strips` strips from `first` on, at most those of one tile. The tiles prefetch `ranges`.
void ExpertProduct::multiply_panel(const ItemWork& work, std::int64_t first, std::int64_t strips,
                                   const PrefetchRanges& ranges) const {
  const Item& item = work.item;
  const std::int64_t K = weights_.K();
  const int group_size = weights_.quantized()->group_size();
  const std::int64_t groups = K / group_size;
  const auto slices = static_cast<std::size_t>(plan_.slices);
  const FormatKernels& format = weights_.format_kernels();
  const std::int64_t bytes_per_k = plan_.limits.panel_bytes_per_k;
  const TileSize tile = plan_.limits.gemm_tile;

  // The panel holds the codes of all K and stays in L2 while the rows pass. A packed strip that already has the panel's order is
  // used in place.
  GemmArguments arguments;
  arguments.strip_codes = K * bytes_per_k;
  arguments.strip_scales = groups * 2 * lanes;
  arguments.group_size = group_size;
  arguments.c_stride = work.c_stride;
  const bool ready = weights_.strips_are_panels();
  std::byte* panel = ready ? nullptr : work.scratch.codes.take<std::byte>(strips, arguments.strip_codes);
  float* scales = work.scratch.scales.take<float>(strips, arguments.strip_scales);
  for (std::int64_t s = 0; s < strips; ++s) {
    const WeightStrip strip = weights_.strip(item.expert, item.first_strip + first + s);
    if (!ready) {
      format.pack(strip, 0, K, panel + s * arguments.strip_codes);
    }
    work.exceptional_lanes[static_cast<std::size_t>(first + s)] =
        format.pack_scales(strip, 0, groups, scales + s * arguments.strip_scales);
  }
  const std::byte* codes = ready ? weights_.strip(item.expert, item.first_strip + first).codes : panel;

  const std::int64_t bundle = group_size < 32 ? group_size : 32;
  PrefetchQueue prefetches(ranges, (item.rows + tile.mr - 1) / tile.mr * (K / bundle));

  const std::int64_t kc_groups = plan_.kc / group_size;
  const auto& kernels =
      group_size < 32 ? kernels_.gemm16[slices - 1] : kernels_.gemm[static_cast<std::size_t>(format.panel)][slices - 1];
  for (std::int64_t g = 0; g < groups; g += kc_groups) {
    arguments.groups = static_cast<int>(std::min(kc_groups, groups - g));
    arguments.first = g == 0;
    arguments.codes = codes + g * group_size * bytes_per_k;
    arguments.scales = scales + g * 2 * lanes;
    for (std::int64_t row = 0; row < item.rows; row += tile.mr) {
      const auto rows = static_cast<std::size_t>(std::min<std::int64_t>(tile.mr, item.rows - row));
      std::array<const std::int32_t*, max_tile_rows> x = {};
      std::array<const float*, max_tile_rows> x_scales = {};
      for (std::size_t r = 0; r < rows; ++r) {
        const std::int64_t x_row = work.rows[static_cast<std::size_t>(row) + r];
        x[r] = rows_.words(x_row) + g * group_size / 4 * plan_.slices;
        x_scales[r] = rows_.scales(x_row, g);
      }
      arguments.x = x.data();
      arguments.x_scales = x_scales.data();
      arguments.c = work.row(row) + first * lanes;
      const PrefetchQueue::Lines lines = prefetches.take(arguments.groups * (group_size / bundle), arguments.codes);
      arguments.prefetch = lines.begin;
      arguments.prefetch_lines = lines.per_point;
      kernels[rows - 1][strips - 1](arguments);
    }
  }
}

}  // namespace gqmm::cpu
