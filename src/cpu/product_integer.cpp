// The integer path: decode, and GEMM tiles over a panel.
#include "cpu/line_queue.hpp"
#include "cpu/machine.hpp"
#include "cpu/product.hpp"
#include "cpu/strips_ahead.hpp"
#include "formats/registry.hpp"

#include <algorithm>
#include <array>

namespace gqmm::cpu {
namespace {

/// Panel bytes of the GEMM's inner loop over k: with the activations and sums of a tile, they should stay in L1 while the rows
/// pass by. For nibbles 12 of 32 KiB; 24 of 48 KiB changed nothing. Bytes get twice as much, for as many k: half the k to a call
/// of the tile costs 1 to 6 %, most where groups are small.
std::int64_t panel_chunk_bytes(PanelKind panel) { return machine().l1_bytes * (panel == PanelKind::nibbles ? 3 : 6) / 8; }

}  // namespace

// Rows four at a time, while the strip is in L1.
void Product::integer_gemv(const Block& block, const Item* next) const {
  const Item& item = block.item;
  const auto& kernels = kernels_.formats[index_of(*problem_.format)].gemv[problem_.slices - 1];
  const std::int64_t parts = (item.rows + max_gemv_rows - 1) / max_gemv_rows;
  const auto multiply = [&](std::int64_t s, std::int64_t part, const StripStream& stream) {
    const std::int64_t first = part * max_gemv_rows;
    const std::int64_t left = std::min<std::int64_t>(max_gemv_rows, item.rows - first);
    const auto rows = static_cast<std::size_t>(left == 3 ? 4 : left);  // a fourth row computed twice is cheaper than a kernel
    std::array<const std::int32_t*, max_gemv_rows> x = {};
    std::array<const float*, max_gemv_rows> x_scales = {};
    for (std::size_t r = 0; r < rows; ++r) {
      const std::int64_t x_row = block.x_rows[std::min(static_cast<std::size_t>(first) + r, block.x_rows.size() - 1)];
      x[r] = x_.words(x_row);
      x_scales[r] = x_.scales(x_row);
    }
    block.exceptional_lanes[static_cast<std::size_t>(s)] = kernels[rows - 1]({.stream = stream,
                                                                              .group_size = problem_.group_size,
                                                                              .K = problem_.K,
                                                                              .x = x.data(),
                                                                              .x_scales = x_scales.data(),
                                                                              .c = block.row(first) + s * lanes,
                                                                              .c_stride = block.c_stride});
  };
  for_each_strip(weights_, item, next, parts, machine().decode_prefetches_to_l2, multiply);
}

void Product::integer_gemm(const Block& block, const Item* next) const {
  const Item& item = block.item;
  const std::int64_t width = kernels_.gemm_tile[problem_.slices - 1].nv;
  for (std::int64_t s = 0; s < item.strips; s += width) {
    multiply_panel(block, s, std::min(width, item.strips - s), ahead(weights_, item, s + width, next, width));
  }
}

/// All rows of the block times `strips` strips from `first` on, at most one tile's.
void Product::multiply_panel(const Block& block, std::int64_t first, std::int64_t strips, const Ahead& ahead) const {
  const Item& item = block.item;
  const std::int64_t K = problem_.K;
  const int group_size = problem_.group_size;
  const std::int64_t groups = K / group_size;
  const auto slices = static_cast<std::size_t>(problem_.slices);
  const FormatKernels& format = kernels_.formats[index_of(*problem_.format)];
  const std::int64_t bytes_per_k = format.panel == PanelKind::nibbles ? 8 : 16;
  const TileSize tile = kernels_.gemm_tile[slices - 1];

  // Codes of all K, in L2 while the rows pass by; a packed strip in panel order serves as it is.
  GemmArguments arguments;
  arguments.strip_codes = K * bytes_per_k;
  arguments.strip_scales = groups * 2 * lanes;
  arguments.group_size = group_size;
  arguments.c_stride = block.c_stride;
  const bool ready = problem_.packed != nullptr && format.panel_is_raw;
  std::byte* panel = ready ? nullptr : block.scratch.codes.take<std::byte>(strips, arguments.strip_codes);
  float* scales = block.scratch.scales.take<float>(strips, arguments.strip_scales);
  for (std::int64_t s = 0; s < strips; ++s) {
    const WeightStrip strip = weights_.strip(item.expert, item.first_strip + first + s);
    if (!ready) {
      format.pack(strip, 0, K, panel + s * arguments.strip_codes);
    }
    block.exceptional_lanes[static_cast<std::size_t>(first + s)] =
        format.pack_scales(strip, 0, groups, scales + s * arguments.strip_scales);
  }
  const std::byte* codes = ready ? weights_.strip(item.expert, item.first_strip + first).codes : panel;

  const std::int64_t unit = group_size < 32 ? group_size : 32;
  LineQueue lines_ahead(ahead, (item.rows + tile.mr - 1) / tile.mr * (K / unit));

  const std::int64_t chunk_k = panel_chunk_bytes(format.panel) / (strips * bytes_per_k) / group_size * group_size;
  const std::int64_t chunk_groups = std::max<std::int64_t>(1, chunk_k / group_size);
  const auto& kernels =
      group_size < 32 ? kernels_.gemm16[slices - 1] : kernels_.gemm[static_cast<std::size_t>(format.panel)][slices - 1];
  for (std::int64_t g = 0; g < groups; g += chunk_groups) {
    arguments.groups = static_cast<int>(std::min(chunk_groups, groups - g));
    arguments.first = g == 0;
    arguments.codes = codes + g * group_size * bytes_per_k;
    arguments.scales = scales + g * 2 * lanes;
    for (std::int64_t row = 0; row < item.rows; row += tile.mr) {
      const auto rows = static_cast<std::size_t>(std::min<std::int64_t>(tile.mr, item.rows - row));
      std::array<const std::int32_t*, max_tile_rows> x = {};
      std::array<const float*, max_tile_rows> x_scales = {};
      for (std::size_t r = 0; r < rows; ++r) {
        const std::int64_t x_row = block.x_rows[static_cast<std::size_t>(row) + r];
        x[r] = x_.words(x_row) + g * group_size / 4 * problem_.slices;
        x_scales[r] = x_.scales(x_row, g);
      }
      arguments.x = x.data();
      arguments.x_scales = x_scales.data();
      arguments.c = block.row(row) + first * lanes;
      const LineQueue::Lines lines = lines_ahead.take(arguments.groups * (group_size / unit), arguments.codes);
      arguments.prefetch = lines.begin;
      arguments.prefetch_lines = lines.per_unit;
      kernels[rows - 1][strips - 1](arguments);
    }
  }
}

}  // namespace gqmm::cpu
