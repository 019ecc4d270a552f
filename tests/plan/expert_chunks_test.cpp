// Chunks of experts: how many are worth their messages, and which slots belong to each.
#include "plan/expert_chunks.hpp"

#include <gtest/gtest.h>

#include <vector>

namespace gqmm::detail {
namespace {

using Numbers = std::vector<std::int64_t>;

TEST(ExpertChunks, ThereAreAsManyAsMessagesOf32KiBAllow) {
  // A slot for each pair of ranks, so that slot_bytes are the bytes of a message.
  const auto chunks = [](std::int64_t slot_bytes) {
    return worthwhile_chunks({.ranks = 4, .experts = 128, .slots = 16, .slot_bytes = slot_bytes});
  };
  EXPECT_EQ(chunks(0), 1);
  EXPECT_EQ(chunks((64 << 10) - 1), 1);
  EXPECT_EQ(chunks(64 << 10), 2);
  EXPECT_EQ(chunks((128 << 10) - 1), 2);
  EXPECT_EQ(chunks(128 << 10), 4);
  EXPECT_EQ(chunks(256 << 10), 8);
  EXPECT_EQ(chunks(100 << 20), 8);
}

TEST(ExpertChunks, ThereAreNoMoreThanExpertsOfARankAndNoneForOneRank) {
  const auto chunks = [](int ranks, std::int64_t experts) {
    return worthwhile_chunks({.ranks = ranks, .experts = experts, .slots = 1 << 20, .slot_bytes = 1 << 20});
  };
  EXPECT_EQ(chunks(4, 31), 4);
  EXPECT_EQ(chunks(4, 32), 8);
  EXPECT_EQ(chunks(4, 3), 1);
  EXPECT_EQ(chunks(4, 0), 1);
  EXPECT_EQ(chunks(1, 128), 1);
}

TEST(ExpertChunks, SizesOfChunksDifferByOneAtMost) {
  for (int held = 1; held < 20; ++held) {
    for (int chunks = 1; chunks < 25; ++chunks) {
      Numbers sizes(static_cast<std::size_t>(chunks), 0);
      for (int position = 0, last = 0; position < held; ++position) {
        const int chunk = chunk_of(position, held, chunks);
        EXPECT_LE(last, chunk);
        last = chunk;
        ++sizes.at(static_cast<std::size_t>(chunk));
      }
      for (const std::int64_t size : sizes) {
        EXPECT_TRUE(size == held / chunks || size == (held + chunks - 1) / chunks) << held << " experts, " << chunks << " chunks";
      }
    }
  }
}

TEST(ExpertChunks, AChunkHasItsRowsAndTheirSlotsInOrder) {
  // Of 4 experts, 0 and 1 are in chunk 0. Rows 0 and 1 came from source 0, none from source 1, rows 2 and 3 from source 2.
  const Numbers ids = {
      3,  -1, 0,  //
      -1, 2,  3,  //
      1,  0,  2,  //
      -1, -1, -1,
  };
  const std::vector<ChunkSlots> chunks = slots_of_chunks(ids, 3, Numbers{2, 0, 2}, 4, 2);
  ASSERT_EQ(chunks.size(), 2U);
  EXPECT_EQ(chunks[0].rows, (Numbers{0, 2}));
  EXPECT_EQ(chunks[0].columns, 2);
  EXPECT_EQ(chunks[0].experts, (Numbers{0, -1, 1, 0}));
  EXPECT_EQ(chunks[0].results, (Numbers{1, 0, 2}));
  EXPECT_EQ(chunks[1].rows, (Numbers{0, 1, 2}));
  EXPECT_EQ(chunks[1].columns, 2);
  EXPECT_EQ(chunks[1].experts, (Numbers{3, -1, 2, 3, 2, -1}));
  EXPECT_EQ(chunks[1].results, (Numbers{3, 0, 1}));
}

TEST(ExpertChunks, ChunksMayBeEmpty) {
  const std::vector<ChunkSlots> chunks = slots_of_chunks(Numbers{0}, 1, Numbers{0, 1}, 1, 3);
  ASSERT_EQ(chunks.size(), 3U);
  EXPECT_EQ(chunks[0].rows, Numbers{0});
  for (const std::size_t empty : {1U, 2U}) {
    EXPECT_TRUE(chunks[empty].rows.empty());
    EXPECT_EQ(chunks[empty].columns, 0);
    EXPECT_EQ(chunks[empty].results, (Numbers{0, 0}));
  }
  EXPECT_TRUE(slots_of_chunks({}, 2, Numbers{0}, 0, 1).front().rows.empty());
}

}  // namespace
}  // namespace gqmm::detail
