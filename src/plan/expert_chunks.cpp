#include "plan/expert_chunks.hpp"

#include "plan/routing.hpp"

#include <algorithm>
#include <cstddef>
#include <utility>

namespace gqmm::detail {
namespace {

/// The slots of one chunk while rows are added, without the padding of rows.
struct GrowingChunk {
  ChunkSlots slots;
  std::vector<std::int64_t> ends;     // of each row's slots in `experts`
  std::vector<std::int64_t> experts;  // of all slots

  void add(std::int64_t row, std::size_t source, std::int64_t expert) {
    if (slots.rows.empty() || slots.rows.back() != row) {
      slots.rows.push_back(row);
      ends.push_back(ends.empty() ? 0 : ends.back());
    }
    experts.push_back(expert);
    ++ends.back();
    ++slots.results[source];
  }

  /// The slots of the chunk, with rows of equal length.
  ChunkSlots finish() {
    std::int64_t begin = 0;
    for (const std::int64_t end : ends) {
      slots.columns = std::max(slots.columns, end - begin);
      begin = end;
    }
    slots.experts.assign(slots.rows.size() * static_cast<std::size_t>(slots.columns), no_expert);
    auto to = slots.experts.begin();
    begin = 0;
    for (const std::int64_t end : ends) {
      std::copy(experts.begin() + begin, experts.begin() + end, to);
      to += slots.columns;
      begin = end;
    }
    return std::move(slots);
  }
};

}  // namespace

int worthwhile_chunks(const DividedCall& call) {
  constexpr int most_chunks = 8;
  constexpr double least_message_bytes = 32 << 10;
  const double messages_of_chunk = static_cast<double>(call.ranks) * call.ranks;
  const double message_bytes = static_cast<double>(call.slots) * static_cast<double>(call.slot_bytes) / messages_of_chunk;
  const auto worthwhile = [&](int chunks) {
    return chunks <= most_chunks && chunks <= call.experts / call.ranks && message_bytes >= chunks * least_message_bytes;
  };
  int chunks = 1;
  while (call.ranks > 1 && worthwhile(2 * chunks)) {
    chunks *= 2;
  }
  return chunks;
}

std::vector<ChunkSlots> slots_of_chunks(std::span<const std::int64_t> ids, std::int64_t k,
                                        std::span<const std::int64_t> row_counts, std::int64_t held, int chunks) {
  std::vector<GrowingChunk> growing(static_cast<std::size_t>(chunks));
  for (GrowingChunk& chunk : growing) {
    chunk.slots.results.assign(row_counts.size(), 0);
  }
  std::int64_t row = 0;
  for (std::size_t source = 0; source < row_counts.size(); ++source) {
    for (const std::int64_t end = row + row_counts[source]; row < end; ++row) {
      for (const std::int64_t id : ids.subspan(static_cast<std::size_t>(row * k), static_cast<std::size_t>(k))) {
        if (id != no_expert) {
          growing[static_cast<std::size_t>(chunk_of(id, held, chunks))].add(row, source, id);
        }
      }
    }
  }
  std::vector<ChunkSlots> slots;
  for (GrowingChunk& chunk : growing) {
    slots.push_back(chunk.finish());
  }
  return slots;
}

}  // namespace gqmm::detail
