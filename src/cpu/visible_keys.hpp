// Which keys of a block a query sees.
#pragma once

#include "cpu/kernels/attention_table.hpp"
#include "plan/attention_problem.hpp"

#include <cstdint>

namespace gqmm::cpu {

/// A block of keys of one batch element. It is aligned to positions, so its begin may lie before the first key, and its end
/// behind the last one.
struct KeyBlock {
  std::int64_t first_key = 0;  // the key, along L, at the block's begin; may be negative
  int begin = 0;               // the keys of the block that exist: [begin, end), counted from first_key
  int end = 0;
};

/// The block of this number, which counts from position 0.
KeyBlock key_block_at(const AttentionProblem& problem, std::int64_t batch, std::int64_t block);

/// A range of numbers of blocks.
struct KeyBlocks {
  std::int64_t begin = 0;
  std::int64_t end = 0;
};
/// All blocks of a batch element that have keys.
KeyBlocks blocks_of(const AttentionProblem& problem, std::int64_t batch);

/// Memory for the masks of one block and query.
struct MaskBuffer {
  alignas(line_bytes) std::uint8_t visible[key_block];
  alignas(line_bytes) float addend[key_block];
};

/// The keys of the block that a query of a head of q sees. Without any, begin and end are equal. The result may point into
/// `buffer`.
VisibleKeys visible_keys(const KernelTable& kernels, const AttentionProblem& problem, std::int64_t batch, std::int64_t head,
                         std::int64_t query, const KeyBlock& block, MaskBuffer& buffer);

/// Whether key j of the block is one of them.
inline bool sees(const VisibleKeys& visible, int j) {
  return j >= visible.begin && j < visible.end && (visible.mask == nullptr || visible.mask[j] != 0) &&
         (visible.addend == nullptr || !(visible.addend[j] < lowest_score));
}

}  // namespace gqmm::cpu
