// Chunks: parts of a rank's experts. The results of one return to their tokens while the next is computed.
//
// The experts of each rank, in their order, are cut into chunks with as many experts, or one more. So the owner map alone says
// which expert is in which chunk, and all ranks know it.
#pragma once

#include "namespaces.hpp"

#include <cstdint>
#include <span>
#include <vector>

namespace gqmm::detail {

/// The chunk of a rank's expert number `position`, if the rank holds so many.
constexpr int chunk_of(std::int64_t position, std::int64_t held, int chunks) {
  return static_cast<int>(position * chunks / held);
}

/// What decides into how many chunks a call is cut.
struct DividedCall {
  int ranks;
  std::int64_t experts;     // of the layer
  std::int64_t slots;       // of the tokens of all ranks
  std::int64_t slot_bytes;  // of a result
};

/// The number of chunks that is worth its messages: the largest power of two, up to 8, with which a message of results still has
/// 32 KiB in the mean and a chunk has an expert. For these sizes bench/scale_model.py predicts no loss on any of its networks.
/// With messages of 8 KiB it predicts up to 18 % on 25 GbE.
int worthwhile_chunks(const DividedCall& call);

/// The slots that a rank computes in one chunk.
struct ChunkSlots {
  std::vector<std::int64_t> rows;     // of those that came, the ones with such a slot, ascending
  std::int64_t columns = 0;           // the most such slots of a row
  std::vector<std::int64_t> experts;  // (rows, columns): the experts of a row's slots, in their order, and then no_expert
  std::vector<std::int64_t> results;  // for each source of rows, its number of slots
};

/// Divides the slots of rows that came among chunks. ids: (rows, k), the number of the expert among the `held` ones of this rank,
/// or no_expert. row_counts: how many rows came from each source; they add up to the rows.
std::vector<ChunkSlots> slots_of_chunks(std::span<const std::int64_t> ids, std::int64_t k,
                                        std::span<const std::int64_t> row_counts, std::int64_t held, int chunks);

}  // namespace gqmm::detail
