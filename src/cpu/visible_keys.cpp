#include "cpu/visible_keys.hpp"

#include "cpu/load_floats.hpp"

#include <algorithm>

namespace gqmm::cpu {
namespace {

/// a / b, rounded down.
std::int64_t floor_div(std::int64_t a, std::int64_t b) { return a / b - (a % b < 0 ? 1 : 0); }

/// Narrows [begin, end) to the first and the last key that hidden() does not name.
template <class Hidden>
void trim(VisibleKeys& visible, const Hidden& hidden) {
  while (visible.begin < visible.end && hidden(visible.begin)) {
    ++visible.begin;
  }
  while (visible.end > visible.begin && hidden(visible.end - 1)) {
    --visible.end;
  }
}

}  // namespace

KeyBlock key_block_at(const AttentionProblem& problem, std::int64_t batch, std::int64_t block) {
  const std::int64_t first = problem.origin[static_cast<std::size_t>(batch)] + block * key_block;
  return {.first_key = first,
          .begin = static_cast<int>(std::max<std::int64_t>(0, -first)),
          .end = static_cast<int>(std::min<std::int64_t>(key_block, problem.keys() - first))};
}

KeyBlocks blocks_of(const AttentionProblem& problem, std::int64_t batch) {
  const std::int64_t origin = problem.origin[static_cast<std::size_t>(batch)];
  return {.begin = floor_div(-origin, key_block), .end = floor_div(problem.keys() - 1 - origin, key_block) + 1};
}

VisibleKeys visible_keys(const KernelTable& kernels, const AttentionProblem& problem, std::int64_t batch, std::int64_t head,
                         std::int64_t query, const KeyBlock& block, MaskBuffer& buffer) {
  VisibleKeys visible = {.begin = block.begin, .end = block.end};
  const std::int64_t matrix = batch * problem.q_heads + head;
  switch (problem.mask_kind) {
    case MaskKind::none: break;
    case MaskKind::causal: {
      const std::int64_t end = problem.keys() - problem.queries() + query + 1 - block.first_key;
      visible.end = static_cast<int>(std::clamp<std::int64_t>(end, visible.begin, visible.end));
      break;
    }
    case MaskKind::boolean: {
      const MatrixBatch& mask = problem.mask;
      const std::byte* from = mask.row(matrix, query) + (block.first_key + block.begin) * mask.col_stride();
      for (int j = block.begin; j < block.end; ++j, from += mask.col_stride()) {
        buffer.visible[j] = static_cast<std::uint8_t>(*from);
      }
      trim(visible, [&](int j) { return buffer.visible[j] == 0; });
      if (std::any_of(buffer.visible + visible.begin, buffer.visible + visible.end,
                      [](std::uint8_t seen) { return seen == 0; })) {
        std::fill(buffer.visible, buffer.visible + block.begin, std::uint8_t{0});
        std::fill(buffer.visible + block.end, buffer.visible + key_block, std::uint8_t{0});
        visible.mask = buffer.visible;
      }
      break;
    }
    case MaskKind::additive: {
      const std::int64_t row = matrix * problem.queries() + query;
      std::fill_n(buffer.addend, key_block, 0.0F);
      load_floats(kernels, problem.mask, row * problem.keys() + block.first_key + block.begin, block.end - block.begin,
                  buffer.addend + block.begin);
      trim(visible, [&](int j) { return buffer.addend[j] < lowest_score; });
      visible.addend = buffer.addend;
      break;
    }
  }
  return visible;
}

}  // namespace gqmm::cpu
