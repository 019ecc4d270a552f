#include "cpu/expert_product.hpp"

#include <algorithm>
#include <array>

namespace gqmm::cpu {

ExpertProduct::ItemWork ExpertProduct::begin(const Item& item, ItemScratch& scratch) const {
  scratch.rows.resize(static_cast<std::size_t>(item.rows));
  scratch.exceptional_lanes.assign(static_cast<std::size_t>(item.strips), 0);
  for (std::int64_t r = 0; r < item.rows; ++r) {
    const std::int64_t row = item.first_row + r;
    const std::int64_t pair = routing_.order[static_cast<std::size_t>(row / rows_.M())];
    scratch.rows[static_cast<std::size_t>(r)] = rows_.row_of(pair, row % rows_.M());
  }
  return {.item = item,
          .c_stride = item.strips * lanes,
          .c = scratch.c.take<float>(item.rows + padding_rows, item.strips * lanes),
          .rows = scratch.rows,
          .exceptional_lanes = scratch.exceptional_lanes,
          .scratch = scratch};
}

void ExpertProduct::compute(const ItemWork& work, const Item* next) const {
  switch (work.item.path) {
    case Path::integer_gemv: integer_gemv(work, next); break;
    case Path::integer_gemm: integer_gemm(work, next); break;
    case Path::float_gemv: float_gemv(work, next); return;
    case Path::float_gemm: float_gemm(work, next); return;
    case Path::float_gemv_along_n: float_gemv_along_n(work); return;
    case Path::float_gemm_along_n: float_gemm_along_n(work); return;
  }
  add_exceptional_groups(work);
  redo_exceptional_outputs(work);
}

// Adds the products of exceptional groups of x. Fixed point cannot hold these groups, so they have contributed nothing so far.
// They are added at the end, in ascending order.
void ExpertProduct::add_exceptional_groups(const ItemWork& work) const {
  std::vector<std::int64_t> candidates;  // row numbers within the item
  for (std::int64_t r = 0; r < work.item.rows; ++r) {
    if (rows_.any_exceptional(work.rows[static_cast<std::size_t>(r)])) {
      candidates.push_back(r);
    }
  }
  if (candidates.empty()) {
    return;
  }
  const std::int64_t group_size = weights_.quantized()->group_size();
  const std::int64_t strip_panel = group_size * lanes;
  const std::int64_t panel_strips = plan_.limits.float_tile.nv;
  float* panel = work.scratch.floats.take<float>(panel_strips, strip_panel);
  std::vector<float> values(candidates.size() * static_cast<std::size_t>(group_size));
  std::vector<const float*> x;
  std::vector<float*> c;
  PrefetchQueue no_prefetches;
  for (std::int64_t g = 0; g < weights_.K() / group_size; ++g) {
    x.clear();
    c.clear();
    for (const std::int64_t r : candidates) {
      const std::int64_t x_row = work.rows[static_cast<std::size_t>(r)];
      if (rows_.is_exceptional(x_row, g)) {
        float* value = values.data() + x.size() * static_cast<std::size_t>(group_size);
        rows_.widen(x_row, g * group_size, group_size, value);
        x.push_back(value);
        c.push_back(work.row(r));
      }
    }
    for (std::int64_t s = 0; s < work.item.strips && !x.empty(); s += panel_strips) {
      const std::int64_t strips = std::min(panel_strips, work.item.strips - s);
      weights_.dequantize(work.item.expert, work.item.first_strip + s, strips, g * group_size, group_size, panel);
      multiply_floats(s, strips, panel, group_size, x.data(), c.data(), static_cast<std::int64_t>(x.size()), no_prefetches);
    }
  }
}

// Computes the exceptional outputs in float, over all of K. Their scales or biases are not finite, or so large that an
// intermediate sum could overflow.
void ExpertProduct::redo_exceptional_outputs(const ItemWork& work) const {
  if (std::all_of(work.exceptional_lanes.begin(), work.exceptional_lanes.end(), [](std::uint32_t mask) { return mask == 0; })) {
    return;
  }
  const auto rows = static_cast<std::size_t>(work.item.rows);
  std::vector<float> values;
  std::vector<float> sums;
  std::vector<const float*> x(rows);
  std::vector<float*> c(rows);
  PrefetchQueue no_prefetches;
  for (std::int64_t s = 0; s < work.item.strips; ++s) {
    const std::uint32_t mask = work.exceptional_lanes[static_cast<std::size_t>(s)];
    if (mask == 0) {
      continue;
    }
    float* panel = work.scratch.floats.take<float>(float_block, lanes);
    values.resize(rows * float_block);
    sums.assign(rows * lanes, 0.0F);
    for (std::int64_t k0 = 0; k0 < weights_.K(); k0 += float_block) {
      const std::int64_t k = std::min(float_block, weights_.K() - k0);
      weights_.dequantize(work.item.expert, work.item.first_strip + s, 1, k0, k, panel);
      for (std::size_t r = 0; r < rows; ++r) {
        rows_.widen(work.rows[r], k0, k, values.data() + r * float_block);
        x[r] = values.data() + r * float_block;
        c[r] = sums.data() + r * lanes;
      }
      multiply_floats(0, 1, panel, k, x.data(), c.data(), work.item.rows, no_prefetches);
    }
    for (std::size_t r = 0; r < rows; ++r) {
      for (int lane = 0; lane < lanes; ++lane) {
        if ((mask >> lane & 1U) != 0) {
          work.row(static_cast<std::int64_t>(r))[s * lanes + lane] = sums[r * lanes + static_cast<std::size_t>(lane)];
        }
      }
    }
  }
}

/// Adds x[r] · panel to c[r][strip · 16 …]. The panel has `strips` strips, at most those of one tile. The kernels prefetch what
/// `prefetches` hands out.
void ExpertProduct::multiply_floats(std::int64_t strip, std::int64_t strips, const float* panel, std::int64_t k,
                                    const float* const* x, float* const* c, std::int64_t rows, PrefetchQueue& prefetches) const {
  std::array<float*, max_tile_rows> at = {};
  for (std::int64_t row = 0; row < rows; row += plan_.limits.float_tile.mr) {
    const auto count = static_cast<std::size_t>(std::min<std::int64_t>(plan_.limits.float_tile.mr, rows - row));
    for (std::size_t r = 0; r < count; ++r) {
      at[r] = c[static_cast<std::size_t>(row) + r] + strip * lanes;
    }
    const PrefetchQueue::Lines lines = prefetches.take(k / prefetch_k, reinterpret_cast<const std::byte*>(panel));
    kernels_.float_gemm[count - 1][strips - 1]({.tile = {.w = panel,
                                                         .strip_stride = k * lanes,
                                                         .x = x + row,
                                                         .k = static_cast<int>(k),
                                                         .prefetch = lines.begin,
                                                         .prefetch_lines = lines.per_point},
                                                .c = at.data()});
  }
}

void RoundIntoResult::operator()(const ResultBlock& tile) const {
  const auto itemsize = static_cast<std::int64_t>(size_of(dtype_));
  for (std::int64_t r = 0; r < tile.rows(); ++r) {
    std::byte* y = y_ + (tile.result_row(r) * N_ + tile.first_output()) * itemsize;
    kernels_.round(tile.row(r), tile.outputs(), dtype_, y);
  }
}

}  // namespace gqmm::cpu
