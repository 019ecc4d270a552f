#include "cpu/attention_rows.hpp"

#include "assertion.hpp"
#include "cpu/load_floats.hpp"

#include <algorithm>
#include <array>
#include <bit>

namespace gqmm::cpu {
namespace {

int log2_of(int power) { return std::countr_zero(static_cast<unsigned>(power)); }

/// Calls function(row, count) for groups of rows: as many of `largest` as there are, then smaller powers of two.
template <class Function>
void for_each_group(std::int64_t rows, int largest, const Function& function) {
  std::int64_t row = 0;
  for (int count = largest; count > 0; count /= 2) {
    for (; row + count <= rows; row += count) {
      function(row, count);
    }
  }
}

}  // namespace

void RowStates::clear(std::int64_t rows, std::int64_t padded_width) const {
  std::fill_n(maximum, rows, lowest_score);
  std::fill_n(sums, rows * lanes, 0.0F);
  std::fill_n(o, rows * padded_width, 0.0F);
}

std::int64_t chunk_of(std::int64_t block) {
  return block >= 0 ? block / blocks_of_chunk : -((-block + blocks_of_chunk - 1) / blocks_of_chunk);
}

KeyBlocks blocks_of_chunk_in(std::int64_t chunk, const KeyBlocks& range) {
  return {std::max(range.begin, chunk * blocks_of_chunk), std::min(range.end, (chunk + 1) * blocks_of_chunk)};
}

AttentionRows::AttentionRows(const AttentionCall& call, const RowSet& set, AttentionScratch& scratch)
    : call_(call),
      set_(set),
      scratch_(scratch),
      group_(call.problem.group()),
      rows_(set.queries * group_),
      depth_(call.padded_depth()),
      width_(call.padded_width()),
      panels_(call, set.batch * call.problem.kv_heads + set.kv_head, scratch),
      q_(scratch.q.take<float>(rows_, depth_)),
      interleaved_q_(scratch.interleaved_q.take<float>(rows_, depth_)),
      visible_(scratch.visible.take<VisibleKeys>(rows_)) {
  const AttentionProblem& problem = call.problem;
  const float factor = problem.scale * log2_e;
  for (std::int64_t row = 0; row < rows_; ++row) {
    float* const q = q_ + row * depth_;
    const std::int64_t matrix = set.batch * problem.q_heads + head_of(row);
    load_floats(call.kernels, problem.q, (matrix * problem.queries() + query_of(row)) * problem.depth(), problem.depth(), q);
    for (std::int64_t d = 0; d < problem.depth(); ++d) {
      q[d] *= factor;
    }
    std::fill(q + problem.depth(), q + depth_, 0.0F);
  }
  if (call.in_place) {
    for_each_group(rows_, call.attention.in_place_rows, [&](std::int64_t row, int count) { interleave(row, count); });
  }
}

void AttentionRows::interleave(std::int64_t row, int rows) {
  float* to = interleaved_q_ + row * depth_;
  const float* const q = q_ + row * depth_;
  for (std::int64_t d = 0; d < depth_; ++d) {
    for (int r = 0; r < rows; ++r) {
      *to++ = q[r * depth_ + d];
    }
  }
}

AttentionRows::KeyRange AttentionRows::find_visible(const KeyBlock& block) {
  const AttentionProblem& problem = call_.problem;
  const bool has_array = problem.mask_kind == MaskKind::boolean || problem.mask_kind == MaskKind::additive;
  const bool shared = !problem.mask_differs_by_head;
  auto* const masks = scratch_.masks.take<MaskBuffer>(!has_array ? 1 : shared ? set_.queries : rows_);
  KeyRange range;
  for (std::int64_t row = 0; row < rows_; ++row) {
    if (shared && row % group_ != 0) {
      visible_[row] = visible_[row - 1];
    } else {
      MaskBuffer& buffer = masks[!has_array ? 0 : shared ? row / group_ : row];
      visible_[row] = visible_keys(call_.kernels, problem, set_.batch, head_of(row), query_of(row), block, buffer);
      range.include(visible_[row]);
    }
  }
  return range;
}

AttentionRows::KeyRange AttentionRows::range_of(std::int64_t row, std::int64_t rows) const {
  KeyRange range;
  for (std::int64_t r = row; r < row + rows; ++r) {
    range.include(visible_[r]);
  }
  return range;
}

void AttentionRows::softmax_of(std::int64_t row, int rows, const KeyRange& range, float* old, float* fresh,
                               const RowStates& state) {
  call_.attention.softmax({.s = scratch_.scores.take<float>(max_tile_rows, key_block),
                           .visible = visible_ + row,
                           .rows = rows,
                           .strip_begin = range.strip_begin(),
                           .strip_end = range.strip_end(),
                           .state = state.softmax(),
                           .old = old,
                           .fresh = fresh});
}

void AttentionRows::scores_of_panel(std::int64_t row, int rows, const float* keys, int strip_begin, int strip_end) {
  float* const s = scratch_.scores.take<float>(max_tile_rows, key_block);
  std::array<const float*, max_tile_rows> x = {};
  for (int r = 0; r < rows; ++r) {
    x[static_cast<std::size_t>(r)] = q_ + (row + r) * depth_;
  }
  const int nv = call_.attention.tile.nv;
  for (int strip = strip_begin; strip < strip_end; strip += nv) {
    const int strips = std::min(nv, strip_end - strip);
    call_.attention.score_tile[rows - 1][strips - 1]({.tile = {.w = keys + strip * panels_.key_strip(),
                                                               .strip_stride = panels_.key_strip(),
                                                               .x = x.data(),
                                                               .k = static_cast<int>(depth_),
                                                               .prefetch = reinterpret_cast<const std::byte*>(keys)},
                                                      .s = s + strip * lanes});
  }
}

void AttentionRows::take_up_values(const float* values, int first, int keys, int rows, const float* old, const float* fresh,
                                   const RowStates& state) {
  const float* const s = scratch_.scores.take<float>(max_tile_rows, key_block);
  std::array<const float*, max_tile_rows> x = {};
  for (int r = 0; r < rows; ++r) {
    x[static_cast<std::size_t>(r)] = s + r * key_block + first;
  }
  constexpr std::int64_t value_strip = AttentionPanels::value_strip;
  const int nv = call_.attention.tile.nv;
  const int strips = static_cast<int>(width_ / lanes);
  for (int strip = 0; strip < strips; strip += nv) {
    const int count = std::min(nv, strips - strip);
    call_.attention.value_tile[rows - 1][count - 1]({.tile = {.w = values + strip * value_strip + first * lanes,
                                                              .strip_stride = value_strip,
                                                              .x = x.data(),
                                                              .k = keys,
                                                              .prefetch = reinterpret_cast<const std::byte*>(values)},
                                                     .o = state.o + strip * lanes,
                                                     .o_stride = width_,
                                                     .old = old,
                                                     .fresh = fresh});
  }
}

void AttentionRows::add_block_in_place(const KeyBlock& block, const KeyRange& range, const KeyBlock& next,
                                       const RowStates& state) {
  const AttentionProblem& problem = call_.problem;
  float* const s = scratch_.scores.take<float>(max_tile_rows, key_block);
  const auto k_kind = static_cast<int>(float_kind_of(problem.k.dense.dtype()));
  const auto v_kind = static_cast<int>(float_kind_of(problem.v.dense.dtype()));
  std::array<KeyStrip, key_block / lanes> strips = {};
  const auto strip_at = [&](int strip) -> KeyStrip& { return strips[static_cast<std::size_t>(strip)]; };
  for (int strip = range.strip_begin(); strip < range.strip_end(); ++strip) {
    strip_at(strip) = panels_.strip_of(block, strip);
  }
  // The first rows prefetch the next block, while they read this one.
  RowRange next_keys;
  RowRange next_values;
  if (next.begin < next.end) {
    next_keys = AttentionPanels::part(panels_.keys(), next);
    next_values = AttentionPanels::part(panels_.values(), next);
  }
  for_each_group(rows_, call_.attention.in_place_rows, [&](std::int64_t row, int count) {
    const KeyRange visible = range_of(row, count);
    if (visible.empty()) {
      return;
    }
    const auto kernel = call_.attention.scores_in_place[k_kind][log2_of(count)];
    for (int strip = visible.strip_begin(); strip < visible.strip_end();) {
      // Strips that lie behind one another go together.
      const KeyStrip& first = strip_at(strip);
      int n = 1;
      while (strip + n < visible.strip_end() && strip_at(strip + n).stride == first.stride &&
             strip_at(strip + n).keys == first.keys + n * lanes * first.stride) {
        ++n;
      }
      kernel({.q = interleaved_q_ + row * depth_,
              .keys = first.keys,
              .key_stride = first.stride,
              .depth = depth_,
              .strips = n,
              .s = s + strip * lanes,
              .prefetch = next_keys});
      next_keys = {};
      strip += n;
    }
    alignas(line_bytes) std::array<float, lanes> old = {};
    alignas(line_bytes) std::array<float, lanes> fresh = {};
    const RowStates of_rows = state.from(row, width_);
    softmax_of(row, count, visible, old.data(), fresh.data(), of_rows);
    const RowRange values = AttentionPanels::part(panels_.values(), {block.first_key, visible.begin, visible.end});
    call_.attention.values_in_place[v_kind][log2_of(count)]({.p = s + visible.begin,
                                                             .values = values.first,
                                                             .value_stride = values.stride,
                                                             .keys = visible.end - visible.begin,
                                                             .width = problem.width(),
                                                             .o = of_rows.o,
                                                             .o_stride = width_,
                                                             .old = old.data(),
                                                             .fresh = fresh.data(),
                                                             .prefetch = next_values});
    next_values = {};
  });
}

void AttentionRows::add_block_packed(const KeyBlock& block, const KeyRange& range, const RowStates& state) {
  const int mr = call_.attention.tile.mr;
  const float* const keys = panels_.pack_keys(block, range.strip_begin(), range.strip_end());
  const float* const values = panels_.pack_values(block, range.begin, range.end);
  for (std::int64_t row = 0; row < rows_; row += mr) {
    const int count = static_cast<int>(std::min<std::int64_t>(mr, rows_ - row));
    const KeyRange visible = range_of(row, count);
    if (visible.empty()) {
      continue;
    }
    scores_of_panel(row, count, keys, visible.strip_begin(), visible.strip_end());
    alignas(line_bytes) std::array<float, lanes> old = {};
    alignas(line_bytes) std::array<float, lanes> fresh = {};
    const RowStates of_rows = state.from(row, width_);
    softmax_of(row, count, visible, old.data(), fresh.data(), of_rows);
    take_up_values(values, visible.begin, visible.end - visible.begin, count, old.data(), fresh.data(), of_rows);
  }
}

void AttentionRows::add_blocks(const KeyBlocks& blocks, const RowStates& state) {
  for (std::int64_t b = blocks.begin; b < blocks.end; ++b) {
    const KeyBlock block = key_block_at(call_.problem, set_.batch, b);
    const KeyRange range = find_visible(block);
    if (range.empty()) {
      continue;
    }
    if (call_.in_place) {
      const KeyBlock next = b + 1 < blocks.end ? key_block_at(call_.problem, set_.batch, b + 1) : KeyBlock();
      add_block_in_place(block, range, next, state);
    } else {
      add_block_packed(block, range, state);
    }
  }
}

void AttentionRows::merge(const RowStates& from, const RowStates& into) const {
  call_.attention.merge({.from = from.softmax(), .from_o = from.o, .into = into.softmax(), .into_o = into.o, .width = width_});
}

void AttentionRows::begin(std::int64_t row, const RowStates& state) const {
  state.clear(1, width_);
  if (!call_.problem.sinks.empty()) {
    const float score = call_.problem.sinks[static_cast<std::size_t>(head_of(row))] * log2_e;
    *state.maximum = score < lowest_score ? lowest_score : score;  // a NaN stays
    *state.sums = 1;
  }
}

void AttentionRows::restore_order(float* o) const {
  constexpr std::int64_t pair = 2 * lanes;
  std::array<float, pair> ordered = {};
  for (std::int64_t d = 0; d + pair <= call_.problem.width(); d += pair) {
    for (std::size_t i = 0; i < lanes; ++i) {
      ordered[2 * i] = o[d + static_cast<std::int64_t>(i)];
      ordered[2 * i + 1] = o[d + lanes + static_cast<std::int64_t>(i)];
    }
    std::copy(ordered.begin(), ordered.end(), o + d);
  }
}

void AttentionRows::finish(std::int64_t row, const RowStates& state) {
  const AttentionProblem& problem = call_.problem;
  if (call_.in_place && call_.problem.v.dense.dtype() == Dtype::bfloat16) {
    restore_order(state.o);
  }
  auto* const y = scratch_.y.take<float>(1, width_);
  if (!call_.attention.finish(state.sums, state.o, problem.width(), y)) {
    compute_carefully(row, y);
  }
  const std::int64_t at = ((set_.batch * problem.q_heads + head_of(row)) * problem.queries() + query_of(row)) * problem.width();
  call_.kernels.round(y, problem.width(), problem.y_dtype, problem.y + at * static_cast<std::int64_t>(size_of(problem.y_dtype)));
}

bool AttentionRows::sees_any(std::int64_t row) const {
  MaskBuffer buffer;
  const KeyBlocks blocks = blocks_of(call_.problem, set_.batch);
  for (std::int64_t b = blocks.begin; b < blocks.end; ++b) {
    const KeyBlock block = key_block_at(call_.problem, set_.batch, b);
    const VisibleKeys visible =
        visible_keys(call_.kernels, call_.problem, set_.batch, head_of(row), query_of(row), block, buffer);
    if (visible.begin < visible.end) {
      return true;
    }
  }
  return false;
}

void AttentionRows::add_block_carefully(std::int64_t row, const KeyBlock& block, bool equal_scores, const RowStates& state) {
  MaskBuffer buffer;
  VisibleKeys visible = {.begin = block.begin, .end = block.end};
  if (!equal_scores) {
    visible = visible_keys(call_.kernels, call_.problem, set_.batch, head_of(row), query_of(row), block, buffer);
  }
  KeyRange range;
  range.include(visible);
  if (range.empty()) {
    return;
  }
  float* const s = scratch_.scores.take<float>(max_tile_rows, key_block);
  if (equal_scores) {
    std::fill_n(s, key_block, 0.0F);
  } else {
    const float* const keys = panels_.pack_keys(block, range.strip_begin(), range.strip_end());
    scores_of_panel(row, 1, keys, range.strip_begin(), range.strip_end());
  }
  float old = 0;
  float fresh = 0;
  call_.attention.softmax({.s = s,
                           .visible = &visible,
                           .rows = 1,
                           .strip_begin = range.strip_begin(),
                           .strip_end = range.strip_end(),
                           .state = state.softmax(),
                           .old = &old,
                           .fresh = &fresh});
  // The weights and values of the visible keys move together.
  float* const values = panels_.pack_values(block, range.begin, range.end);
  int keys = range.begin;
  for (int j = range.begin; j < range.end; ++j) {
    if (!sees(visible, j)) {
      continue;
    }
    s[keys] = s[j];
    for (std::int64_t strip = 0; keys != j && strip < width_ / lanes; ++strip) {
      float* const of_strip = values + strip * AttentionPanels::value_strip;
      std::copy_n(of_strip + j * lanes, lanes, of_strip + keys * lanes);
    }
    ++keys;
  }
  take_up_values(values, range.begin, keys - range.begin, 1, &old, &fresh, state);
}

void AttentionRows::compute_carefully(std::int64_t row, float* y) {
  const AttentionProblem& problem = call_.problem;
  // Where a boolean mask hides all keys, MLX gives them equal weights, because it replaces scores by the lowest number.
  const bool boolean = problem.mask_kind == MaskKind::boolean || problem.mask_kind == MaskKind::causal;
  const bool equal_scores = boolean && problem.sinks.empty() && !sees_any(row);
  auto* const mean = scratch_.mean.take<float>(width_);
  if (equal_scores && knows_mean_) {  // it is the same for all rows
    std::copy_n(mean, problem.width(), y);
    return;
  }
  const std::int64_t floats = RowStates::floats(1, width_);
  auto* const memory = scratch_.careful.take<float>(2, floats);
  const RowStates total = RowStates::in(memory, 1);
  const RowStates chunk = RowStates::in(memory + floats, 1);
  begin(row, total);
  const KeyBlocks blocks = blocks_of(problem, set_.batch);
  for (std::int64_t c = chunk_of(blocks.begin); c <= chunk_of(blocks.end - 1); ++c) {
    const KeyBlocks of_chunk = blocks_of_chunk_in(c, blocks);
    chunk.clear(1, width_);
    for (std::int64_t b = of_chunk.begin; b < of_chunk.end; ++b) {
      add_block_carefully(row, key_block_at(problem, set_.batch, b), equal_scores, chunk);
    }
    merge(chunk, total);
  }
  call_.attention.finish(total.sums, total.o, problem.width(), y);
  if (equal_scores) {
    std::copy_n(y, problem.width(), mean);
    knows_mean_ = true;
  }
}

}  // namespace gqmm::cpu
