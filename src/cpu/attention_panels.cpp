#include "cpu/attention_panels.hpp"

#include "cpu/load_floats.hpp"

#include <algorithm>
#include <cstring>

namespace gqmm::cpu {
namespace {

RowRange rows_of(const KeyMatrices& matrices, std::int64_t matrix) {
  const MatrixBatch& rows = matrices.is_quantized() ? matrices.quantized.codes : matrices.dense;
  return {.first = rows.matrix(matrix),
          .stride = rows.row_stride(),
          .row_bytes = rows.cols() * static_cast<std::int64_t>(size_of(rows.dtype())),
          .rows = rows.rows()};
}

/// Bytes that a copied key takes. A dense key has whole pieces of 16. Codes of 4 or 8 bits have the row alone. Other codes have
/// 16 bytes more, because the kernel reads up to 12 bytes behind the row.
std::int64_t padded_bytes(const AttentionCall& call, const RowRange& keys) {
  const KeyMatrices& k = call.problem.k;
  if (!k.is_quantized()) {
    return call.padded_depth() * static_cast<std::int64_t>(size_of(k.dense.dtype()));
  }
  constexpr int piece = 16;
  return k.quantized.format().bits % 4 == 0 ? keys.row_bytes : keys.row_bytes + piece;
}

}  // namespace

AttentionPanels::AttentionPanels(const AttentionCall& call, std::int64_t matrix, AttentionScratch& scratch)
    : call_(call),
      matrix_(matrix),
      scratch_(scratch),
      keys_(rows_of(call.problem.k, matrix)),
      values_(rows_of(call.problem.v, matrix)),
      padded_key_bytes_(padded_bytes(call, keys_)) {}

RowRange AttentionPanels::part(const RowRange& rows, const KeyBlock& block) {
  return {.first = rows.first + (block.first_key + block.begin) * rows.stride,
          .stride = rows.stride,
          .row_bytes = rows.row_bytes,
          .rows = block.end - block.begin};
}

KeyStrip AttentionPanels::strip_of(const KeyBlock& block, int strip) {
  const int first = strip * lanes;
  const std::byte* const of_block = keys_.first + block.first_key * keys_.stride;
  // Rows that are whole pages apart share a set of the L1 cache.
  const bool conflicts = keys_.stride % 4096 == 0;
  if (first >= block.begin && first + lanes <= block.end && keys_.row_bytes == padded_key_bytes_ && !conflicts) {
    return {of_block + first * keys_.stride, keys_.stride};
  }
  auto* const copy = scratch_.copied_keys.take<std::byte>(key_block, padded_key_bytes_) + first * padded_key_bytes_;
  for (int j = 0; j < lanes; ++j) {
    const std::byte* const from = of_block + std::clamp(first + j, block.begin, block.end - 1) * keys_.stride;
    std::byte* const to = copy + j * padded_key_bytes_;
    std::memcpy(to, from, static_cast<std::size_t>(keys_.row_bytes));
    std::memset(to + keys_.row_bytes, 0, static_cast<std::size_t>(padded_key_bytes_ - keys_.row_bytes));
  }
  return {copy, padded_key_bytes_};
}

AttentionPanels::Groups AttentionPanels::load_groups(const QuantizedMatrices& matrices, std::int64_t first, std::int64_t rows) {
  const std::int64_t groups = matrices.scales.cols();
  const std::int64_t element = (matrix_ * matrices.scales.rows() + first) * groups;
  auto* const scales = scratch_.scales.take<float>(key_block, groups);
  auto* const biases = scratch_.biases.take<float>(key_block, groups);
  load_floats(call_.kernels, matrices.scales, element, rows * groups, scales);
  load_floats(call_.kernels, matrices.biases, element, rows * groups, biases);
  return {scales, biases};
}

AttentionPanels::Groups AttentionPanels::groups_of_strip(const Groups& groups, int strip, int begin, int end) {
  const std::int64_t count = call_.problem.k.quantized.scales.cols();
  auto* const scales = scratch_.scales_of_strip.take<float>(count, lanes);
  auto* const biases = scratch_.biases_of_strip.take<float>(count, lanes);
  for (int j = 0; j < lanes; ++j) {
    const std::int64_t row = std::clamp(strip * lanes + j, begin, end - 1) - begin;
    for (std::int64_t group = 0; group < count; ++group) {
      scales[group * lanes + j] = groups.scales[row * count + group];
      biases[group * lanes + j] = groups.biases[row * count + group];
    }
  }
  return {scales, biases};
}

const float* AttentionPanels::pack_keys(const KeyBlock& block, int begin, int end) {
  const KeyMatrices& k = call_.problem.k;
  auto* const panel = scratch_.keys.take<float>(key_block, call_.padded_depth());
  const int first = std::max(block.begin, begin * lanes);
  const int last = std::min(block.end, end * lanes);
  const Groups groups = k.is_quantized() ? load_groups(k.quantized, block.first_key + first, last - first) : Groups();
  for (int strip = begin; strip < end; ++strip) {
    const KeyStrip from = strip_of(block, strip);
    RowRange next;
    if ((strip + 1) * lanes < block.end) {
      next = part(keys_, {block.first_key, (strip + 1) * lanes, std::min(block.end, (strip + 2) * lanes)});
    }
    float* const to = panel + strip * key_strip();
    if (!k.is_quantized()) {
      call_.attention.pack_keys[static_cast<int>(float_kind_of(k.dense.dtype()))]({.rows = from.keys,
                                                                                   .stride = from.stride,
                                                                                   .count = lanes,
                                                                                   .width = call_.padded_depth(),
                                                                                   .panel = to,
                                                                                   .prefetch = next});
      continue;
    }
    const Groups of_strip = groups_of_strip(groups, strip, first, last);
    call_.attention.pack_quantized_keys[k.quantized.format().bits - 1]({.rows = from.keys,
                                                                        .stride = from.stride,
                                                                        .count = lanes,
                                                                        .width = k.cols(),
                                                                        .group_size = k.quantized.group_size(),
                                                                        .scales = of_strip.scales,
                                                                        .biases = of_strip.biases,
                                                                        .panel = to,
                                                                        .prefetch = next});
  }
  return panel;
}

float* AttentionPanels::pack_values(const KeyBlock& block, int begin, int end) {
  const KeyMatrices& v = call_.problem.v;
  auto* const panel = scratch_.values.take<float>(call_.padded_width() / lanes, value_strip);
  const std::int64_t key = block.first_key + begin;
  const std::byte* const rows = values_.first + key * values_.stride;
  if (!v.is_quantized()) {
    call_.attention.pack_values[static_cast<int>(float_kind_of(v.dense.dtype()))]({.rows = rows,
                                                                                   .stride = values_.stride,
                                                                                   .count = end - begin,
                                                                                   .width = v.cols(),
                                                                                   .panel = panel + begin * lanes,
                                                                                   .strip_stride = value_strip,
                                                                                   .prefetch = {}});
    return panel;
  }
  const Groups groups = load_groups(v.quantized, key, end - begin);
  call_.attention.pack_quantized_values[v.quantized.format().bits - 1]({.rows = rows,
                                                                        .stride = values_.stride,
                                                                        .count = end - begin,
                                                                        .width = v.cols(),
                                                                        .group_size = v.quantized.group_size(),
                                                                        .scales = groups.scales,
                                                                        .biases = groups.biases,
                                                                        .panel = panel + begin * lanes,
                                                                        .strip_stride = value_strip,
                                                                        .prefetch = {}});
  return panel;
}

}  // namespace gqmm::cpu
