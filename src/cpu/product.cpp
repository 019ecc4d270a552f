#include "cpu/product.hpp"

#include "formats/registry.hpp"

#include <algorithm>
#include <array>
#include <optional>

namespace gqmm::cpu {

bool has_integer_path(const Problem& problem) {
  return problem.format != nullptr && problem.format->integer.exists && problem.transpose;
}

void Product::run(const Item& item, const Item* next) const {
  std::optional<ThreadScratch> own;
  ThreadScratch* const kept = kept_by_thread<ThreadScratch>();
  ThreadScratch& scratch = kept != nullptr ? *kept : own.emplace();
  scratch.x_rows.resize(static_cast<std::size_t>(item.rows));
  scratch.exceptional_lanes.assign(static_cast<std::size_t>(item.strips), 0);
  const Block block = {.item = item,
                       .c_stride = item.strips * lanes,
                       .c = scratch.c.take<float>(item.rows + padding_rows, item.strips * lanes),
                       .x_rows = scratch.x_rows,
                       .exceptional_lanes = scratch.exceptional_lanes,
                       .scratch = scratch};
  for (std::int64_t r = 0; r < item.rows; ++r) {
    const std::int64_t row = item.first_row + r;
    const std::int64_t pair = routing_.order[static_cast<std::size_t>(row / problem_.M)];
    block.x_rows[static_cast<std::size_t>(r)] = x_.row_of(pair, row % problem_.M);
  }
  if (!has_integer_path(problem_)) {
    float_product(block, next);
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
  float* panel = block.scratch.floats.take<float>(panel_strips, strip_panel);
  std::vector<float> values(candidates.size() * static_cast<std::size_t>(group_size));
  std::vector<const float*> x;
  std::vector<float*> c;
  LineQueue nothing_ahead;
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
      multiply_floats(s, strips, panel, group_size, x.data(), c.data(), static_cast<std::int64_t>(x.size()), nothing_ahead);
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
  LineQueue nothing_ahead;
  for (std::int64_t s = 0; s < block.item.strips; ++s) {
    const std::uint32_t mask = block.exceptional_lanes[static_cast<std::size_t>(s)];
    if (mask == 0) {
      continue;
    }
    float* panel = block.scratch.floats.take<float>(float_block, lanes);
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
      multiply_floats(0, 1, panel, k, x.data(), c.data(), block.item.rows, nothing_ahead);
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

/// c[r][strip · 16 …] += x[r] · panel, for `strips` strips of the panel, at most one tile's. Prefetches what lines_ahead has.
void Product::multiply_floats(std::int64_t strip, std::int64_t strips, const float* panel, std::int64_t k, const float* const* x,
                              float* const* c, std::int64_t rows, LineQueue& lines_ahead) const {
  std::array<float*, max_tile_rows> at = {};
  for (std::int64_t row = 0; row < rows; row += kernels_.float_tile.mr) {
    const auto count = static_cast<std::size_t>(std::min<std::int64_t>(kernels_.float_tile.mr, rows - row));
    for (std::size_t r = 0; r < count; ++r) {
      at[r] = c[static_cast<std::size_t>(row) + r] + strip * lanes;
    }
    const LineQueue::Lines lines = lines_ahead.take(k / prefetch_k, reinterpret_cast<const std::byte*>(panel));
    kernels_.float_gemm[count - 1][strips - 1]({.w = panel,
                                                .strip_stride = k * lanes,
                                                .x = x + row,
                                                .c = at.data(),
                                                .k = static_cast<int>(k),
                                                .prefetch = lines.begin,
                                                .prefetch_lines = lines.per_unit});
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
