#include "cpu/product.hpp"

#include "cpu/machine.hpp"
#include "formats/registry.hpp"

#include <algorithm>
#include <array>
#include <numeric>

namespace gqmm::cpu {
namespace {

/// Panel bytes of the GEMM's inner loop over k: with the activations and sums of a tile, they should stay in L1 while the rows
/// pass by. For nibbles 12 of 32 KiB; 24 of 48 KiB changed nothing. Bytes get twice as much, for as many k: half the k to a call
/// of the tile costs 1 to 6 %, most where groups are small.
std::int64_t panel_chunk_bytes(PanelKind panel) { return machine().l1_bytes * (panel == PanelKind::nibbles ? 3 : 6) / 8; }

struct ThreadScratch {
  Scratch codes;
  Scratch scales;
  Scratch c;
  Scratch floats;
  std::vector<std::int64_t> x_rows;
  std::vector<std::uint32_t> exceptional_lanes;
};
thread_local ThreadScratch scratch;

/// The lines of what will be wanted soon, handed out run by run.
class LineQueue {
 public:
  explicit LineQueue(const Ahead& ahead) : runs_{ahead.codes, ahead.scales, ahead.biases} {}

  [[nodiscard]] std::int64_t count() const {
    return std::accumulate(runs_.begin(), runs_.end(), std::int64_t{0},
                           [](std::int64_t sum, const Run& run) { return sum + run.bytes / line_bytes; });
  }
  [[nodiscard]] bool empty() const { return count() == 0; }
  /// The next `lines` lines, unless the queue is empty: some may lie beyond the end of a run, where prefetching them is useless
  /// but does no harm.
  const std::byte* take(std::int64_t lines) {
    Run& run = *std::find_if(runs_.begin(), runs_.end(), [](const Run& left) { return left.bytes >= line_bytes; });
    const std::byte* begin = run.begin;
    const std::int64_t bytes = std::min(run.bytes, lines * line_bytes);
    run.begin += bytes;
    run.bytes -= bytes;
    return begin;
  }

 private:
  static constexpr std::int64_t line_bytes = 64;
  std::array<Run, 3> runs_;
};

/// Part `part` of `parts` of what lies ahead.
Ahead part_of(const Ahead& ahead, std::int64_t part, std::int64_t parts) {
  if (parts == 1) {
    return ahead;  // without a dozen divisions
  }
  const auto cut = [&](const Run& run) {
    const std::int64_t first = run.bytes * part / parts;
    return run.bytes == 0 ? Run{} : Run{run.begin + first, run.bytes * (part + 1) / parts - first};
  };
  return {cut(ahead.codes), cut(ahead.scales), cut(ahead.biases)};
}

/// Codes whose pages are translated in one go, twice as far ahead.
constexpr std::int64_t window_bytes = 256 * 1024;

/// Asks for a line of every page. Kernels prefetch, too, but one page at a time, and instructions wait for each translation;
/// here many are under way at once.
void translate_pages(const Ahead& ahead) {
  constexpr std::int64_t page = 4096;
  for (const Run& run : {ahead.codes, ahead.scales, ahead.biases}) {
    for (std::int64_t at = 0; at < run.bytes; at += page) {
      __builtin_prefetch(run.begin + at, 0, 2);
    }
  }
}

}  // namespace

struct Product::Block {
  const Item& item;
  std::int64_t c_stride;                          // floats: strips · 16
  float* c;                                       // [rows][c_stride]
  std::vector<std::int64_t>& x_rows;              // rows of Activations
  std::vector<std::uint32_t>& exceptional_lanes;  // per strip

  [[nodiscard]] float* row(std::int64_t r) const { return c + r * c_stride; }
};

bool has_integer_path(const Problem& problem) {
  return problem.format != nullptr && problem.format->integer.exists && problem.transpose;
}

void Product::run(const Item& item, const Item* next) const {
  scratch.x_rows.resize(static_cast<std::size_t>(item.rows));
  scratch.exceptional_lanes.assign(static_cast<std::size_t>(item.strips), 0);
  const Block block = {.item = item,
                       .c_stride = item.strips * lanes,
                       // GEMV kernels write four rows for three.
                       .c = scratch.c.take<float>(item.rows + max_gemv_rows - 1, item.strips * lanes),
                       .x_rows = scratch.x_rows,
                       .exceptional_lanes = scratch.exceptional_lanes};
  for (std::int64_t r = 0; r < item.rows; ++r) {
    const std::int64_t row = item.first_row + r;
    const std::int64_t pair = routing_.order[static_cast<std::size_t>(row / problem_.M)];
    block.x_rows[static_cast<std::size_t>(r)] = x_.row_of(pair, row % problem_.M);
  }
  if (!has_integer_path(problem_)) {
    float_product(block);
  } else {
    if (item.rows <= few_rows) {
      integer_gemv(block, next);
    } else {
      integer_gemm(block, next);
    }
    add_exceptional_groups(block);
    redo_exceptional_outputs(block);
  }
  write(block);
}

// Rows four at a time, while the strip is in L1.
void Product::integer_gemv(const Block& block, const Item* next) const {
  const Item& item = block.item;
  const FormatKernels& format = kernels_.formats[index_of(*problem_.format)];
  const std::int64_t parts = (item.rows + max_gemv_rows - 1) / max_gemv_rows;
  const std::int64_t window = std::max<std::int64_t>(1, window_bytes / (problem_.K * problem_.format->bits * lanes / 8));
  Ahead to_come = ahead(item, 1, next, 1);
  for (std::int64_t s = 0; s < item.strips; ++s) {
    if (s % window == 0) {
      translate_pages(ahead(item, std::min(s + window, item.strips), next, window));
    }
    const Ahead after_next = ahead(item, s + 2, next, 1);
    for (std::int64_t part = 0; part < parts; ++part) {
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
      block.exceptional_lanes[static_cast<std::size_t>(s)] =
          format.gemv[problem_.slices - 1][rows - 1]({.weights = weights_.strip(item.expert, item.first_strip + s),
                                                      .next = part_of(to_come, part, parts),
                                                      .after_next = part_of(after_next, part, parts),
                                                      .prefetch_to_l2 = machine().decode_prefetches_to_l2,
                                                      .group_size = problem_.group_size,
                                                      .K = problem_.K,
                                                      .x = x.data(),
                                                      .x_scales = x_scales.data(),
                                                      .c = block.row(first) + s * lanes,
                                                      .c_stride = block.c_stride});
    }
    to_come = after_next;
  }
}

/// At most `count` strips from strip `s` of the item on, or, where that is beyond its end, of the next one.
Ahead Product::ahead(const Item& item, std::int64_t s, const Item* next, std::int64_t count) const {
  const auto of = [&](const Item& any, std::int64_t first) {
    return first < any.strips ? weights_.ahead(any.expert, any.first_strip + first, std::min(count, any.strips - first))
                              : Ahead{};
  };
  return s < item.strips ? of(item, s) : next != nullptr ? of(*next, s - item.strips) : Ahead{};
}

void Product::integer_gemm(const Block& block, const Item* next) const {
  const Item& item = block.item;
  const std::int64_t width = kernels_.gemm_tile[problem_.slices - 1].nv;
  for (std::int64_t s = 0; s < item.strips; s += width) {
    const std::int64_t after = s + width;
    const Ahead ahead = after < item.strips
                            ? weights_.ahead(item.expert, item.first_strip + after, std::min(width, item.strips - after))
                        : next != nullptr ? weights_.ahead(next->expert, next->first_strip, std::min(width, next->strips))
                                          : Ahead{};
    multiply_panel(block, s, std::min(width, item.strips - s), ahead);
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
  std::byte* panel = ready ? nullptr : scratch.codes.take<std::byte>(strips, arguments.strip_codes);
  float* scales = scratch.scales.take<float>(strips, arguments.strip_scales);
  for (std::int64_t s = 0; s < strips; ++s) {
    const WeightStrip strip = weights_.strip(item.expert, item.first_strip + first + s);
    if (!ready) {
      format.pack(strip, 0, K, panel + s * arguments.strip_codes);
    }
    block.exceptional_lanes[static_cast<std::size_t>(first + s)] =
        format.pack_scales(strip, 0, groups, scales + s * arguments.strip_scales);
  }
  const std::byte* codes = ready ? weights_.strip(item.expert, item.first_strip + first).codes : panel;

  LineQueue lines_ahead(ahead);
  const std::int64_t unit = group_size < 32 ? group_size : 32;
  const std::int64_t tile_units = (item.rows + tile.mr - 1) / tile.mr * (K / unit);
  const std::int64_t lines_per_unit = std::min<std::int64_t>(2, (lines_ahead.count() + tile_units - 1) / tile_units);

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
      arguments.prefetch_lines = lines_ahead.empty() ? 0 : static_cast<int>(lines_per_unit);
      arguments.prefetch = lines_ahead.empty() ? arguments.codes  // anything that is mapped
                                               : lines_ahead.take(lines_per_unit * arguments.groups * (group_size / unit));
      kernels[rows - 1][strips - 1](arguments);
    }
  }
}

// Groups of x that fixed point cannot hold contributed nothing so far; they join at the end, in ascending order.
void Product::add_exceptional_groups(const Block& block) const {
  std::vector<std::int64_t> candidates;  // rows of the block
  for (std::int64_t r = 0; r < block.item.rows; ++r) {
    if (x_.any_exceptional(block.x_rows[static_cast<std::size_t>(r)])) {
      candidates.push_back(r);
    }
  }
  if (candidates.empty()) {
    return;
  }
  const std::int64_t group_size = problem_.group_size;
  const std::int64_t strip_panel = group_size * lanes;
  const std::int64_t panel_strips = kernels_.float_tile.nv;
  float* panel = scratch.floats.take<float>(panel_strips, strip_panel);
  std::vector<float> values(candidates.size() * static_cast<std::size_t>(group_size));
  std::vector<const float*> x;
  std::vector<float*> c;
  for (std::int64_t g = 0; g < problem_.K / group_size; ++g) {
    x.clear();
    c.clear();
    for (const std::int64_t r : candidates) {
      const std::int64_t x_row = block.x_rows[static_cast<std::size_t>(r)];
      if (x_.is_exceptional(x_row, g)) {
        float* value = values.data() + x.size() * static_cast<std::size_t>(group_size);
        x_.widen(x_row, g * group_size, group_size, value);
        x.push_back(value);
        c.push_back(block.row(r));
      }
    }
    for (std::int64_t s = 0; s < block.item.strips && !x.empty(); s += panel_strips) {
      const std::int64_t strips = std::min(panel_strips, block.item.strips - s);
      weights_.dequantize(block.item.expert, block.item.first_strip + s, strips, g * group_size, group_size, panel);
      multiply_floats(s, strips, panel, group_size, x.data(), c.data(), static_cast<std::int64_t>(x.size()));
    }
  }
}

// Outputs whose scales or biases are not finite, or so large that an intermediate sum could overflow, are evaluated in float
// whole.
void Product::redo_exceptional_outputs(const Block& block) const {
  if (std::all_of(block.exceptional_lanes.begin(), block.exceptional_lanes.end(), [](std::uint32_t mask) { return mask == 0; })) {
    return;
  }
  const auto rows = static_cast<std::size_t>(block.item.rows);
  std::vector<float> values;
  std::vector<float> sums;
  std::vector<const float*> x(rows);
  std::vector<float*> c(rows);
  for (std::int64_t s = 0; s < block.item.strips; ++s) {
    const std::uint32_t mask = block.exceptional_lanes[static_cast<std::size_t>(s)];
    if (mask == 0) {
      continue;
    }
    float* panel = scratch.floats.take<float>(float_block, lanes);
    values.resize(rows * float_block);
    sums.assign(rows * lanes, 0.0F);
    for (std::int64_t k0 = 0; k0 < problem_.K; k0 += float_block) {
      const std::int64_t k = std::min(float_block, problem_.K - k0);
      weights_.dequantize(block.item.expert, block.item.first_strip + s, 1, k0, k, panel);
      for (std::size_t r = 0; r < rows; ++r) {
        x_.widen(block.x_rows[r], k0, k, values.data() + r * float_block);
        x[r] = values.data() + r * float_block;
        c[r] = sums.data() + r * lanes;
      }
      multiply_floats(0, 1, panel, k, x.data(), c.data(), block.item.rows);
    }
    for (std::size_t r = 0; r < rows; ++r) {
      for (int lane = 0; lane < lanes; ++lane) {
        if ((mask >> lane & 1U) != 0) {
          block.row(static_cast<std::int64_t>(r))[s * lanes + lane] = sums[r * lanes + static_cast<std::size_t>(lane)];
        }
      }
    }
  }
}

void Product::float_product(const Block& block) const {
  const Item& item = block.item;
  std::fill_n(block.c, item.rows * block.c_stride, 0.0F);
  const std::int64_t strip_panel = float_block * lanes;
  const std::int64_t panel_strips = kernels_.float_tile.nv;
  float* panel = scratch.floats.take<float>(panel_strips, strip_panel);
  std::vector<const float*> x(static_cast<std::size_t>(item.rows));
  std::vector<float*> c(static_cast<std::size_t>(item.rows));
  for (std::int64_t r = 0; r < item.rows; ++r) {
    c[static_cast<std::size_t>(r)] = block.row(r);
  }
  for (std::int64_t s = 0; s < item.strips; s += panel_strips) {
    const std::int64_t strips = std::min(panel_strips, item.strips - s);
    for (std::int64_t k0 = 0; k0 < problem_.K; k0 += float_block) {
      const std::int64_t k = std::min(float_block, problem_.K - k0);
      weights_.dequantize(item.expert, item.first_strip + s, strips, k0, k, panel);
      for (std::int64_t r = 0; r < item.rows; ++r) {
        x[static_cast<std::size_t>(r)] = x_.floats(block.x_rows[static_cast<std::size_t>(r)]) + k0;
      }
      multiply_floats(s, strips, panel, k, x.data(), c.data(), item.rows);
    }
  }
}

/// c[r][strip · 16 …] += x[r] · panel, for `strips` strips of the panel, at most one tile's.
void Product::multiply_floats(std::int64_t strip, std::int64_t strips, const float* panel, std::int64_t k, const float* const* x,
                              float* const* c, std::int64_t rows) const {
  std::array<float*, max_tile_rows> at = {};
  for (std::int64_t row = 0; row < rows; row += kernels_.float_tile.mr) {
    const auto count = static_cast<std::size_t>(std::min<std::int64_t>(kernels_.float_tile.mr, rows - row));
    for (std::size_t r = 0; r < count; ++r) {
      at[r] = c[static_cast<std::size_t>(row) + r] + strip * lanes;
    }
    kernels_.float_gemm[count - 1][strips - 1](
        {.w = panel, .strip_stride = k * lanes, .x = x + row, .c = at.data(), .k = static_cast<int>(k)});
  }
}

void Product::write(const Block& block) const {
  const Item& item = block.item;
  const std::int64_t n0 = item.first_strip * lanes;
  const std::int64_t n = std::min(item.strips * lanes, problem_.N - n0);
  const auto itemsize = static_cast<std::int64_t>(size_of(problem_.y_dtype));
  for (std::int64_t r = 0; r < item.rows; ++r) {
    const std::int64_t row = item.first_row + r;
    const std::int64_t y_row = routing_.order[static_cast<std::size_t>(row / problem_.M)] * problem_.M + row % problem_.M;
    kernels_.round(block.row(r), n, problem_.y_dtype, problem_.y + (y_row * problem_.N + n0) * itemsize);
  }
}

}  // namespace gqmm::cpu
