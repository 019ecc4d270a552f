// Copies of a strip's rows, and what is prefetched of packed strips.
#include "cpu/kernels/copy_strip_rows.hpp"
#include "cpu/strip_prefetch.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace gqmm::cpu {
namespace {

// Byte i of a row, row n.
std::byte byte_of(std::int64_t n, std::int64_t i) { return static_cast<std::byte>(1 + n * 17 + i * 5); }

std::vector<std::byte> memory_of_rows(int rows, std::int64_t stride, std::int64_t bytes) {
  std::vector<std::byte> memory(static_cast<std::size_t>((rows - 1) * stride + bytes), std::byte{0xff});
  for (std::int64_t n = 0; n < rows; ++n) {
    for (std::int64_t i = 0; i < bytes; ++i) {
      memory[static_cast<std::size_t>(n * stride + i)] = byte_of(n, i);
    }
  }
  return memory;
}

// Each row of out[16][pitch] begins with the row's bytes, or the last row's, and then zeros up to `filled`.
void expect_copies(const std::byte* out, std::int64_t pitch, int rows, std::int64_t bytes, std::int64_t filled) {
  for (std::int64_t n = 0; n < lanes; ++n) {
    for (std::int64_t i = 0; i < filled; ++i) {
      const std::byte expected = i < bytes ? byte_of(std::min<std::int64_t>(n, rows - 1), i) : std::byte{0};
      ASSERT_EQ(out[n * pitch + i], expected) << rows << " rows of " << bytes << " bytes, row " << n << ", byte " << i;
    }
  }
}

TEST(Copies, ShortRowsOfEveryLengthAreFilledUpWithZeros) {
  for (int rows = 1; rows <= lanes; ++rows) {
    for (std::int64_t bytes = 1; bytes <= short_row; ++bytes) {
      const std::vector<std::byte> memory = memory_of_rows(rows, bytes + 3, bytes);
      std::vector<std::byte> out(lanes * short_row, std::byte{0xee});
      copy_short_rows(memory.data(), bytes + 3, rows, bytes, out.data());
      expect_copies(out.data(), short_row, rows, bytes, short_row);
    }
  }
}

TEST(Copies, RowsAreFilledUpWithZerosToAWholeBlock) {
  constexpr int capacity = 128;
  constexpr int block = 16;
  for (const int rows : {1, 7, lanes}) {
    for (std::int64_t bytes = 1; bytes <= capacity; ++bytes) {
      const std::vector<std::byte> memory = memory_of_rows(rows, bytes + 1, bytes);
      std::vector<std::byte> out(lanes * capacity, std::byte{0xee});
      copy_strip_rows<capacity, block>(memory.data(), bytes + 1, rows, bytes, out.data());
      expect_copies(out.data(), capacity, rows, bytes, (bytes + block - 1) / block * block);
    }
  }
}

TEST(Copies, PackedStripsThatFollowEachOtherAreAskedForJustBeforeTheirUse) {
  constexpr std::int64_t lead = 6 * 1024;
  const std::vector<std::byte> memory(4 * 8192);
  const auto begin_of_second = [&](const WeightStrip& strip, std::int64_t next_at, std::int64_t bytes) {
    const PrefetchRanges next = {.codes = {memory.data() + next_at, bytes}, .scales = {}, .biases = {}};
    const auto run = second_prefetch(strip, next).codes;
    EXPECT_EQ(run.bytes, bytes);
    return run.begin - memory.data();
  };
  WeightStrip packed;
  packed.packed = true;
  packed.codes = memory.data();
  EXPECT_EQ(begin_of_second(packed, 8192, 8192), lead);
  EXPECT_EQ(begin_of_second(packed, 2 * 8192, 8192), 2 * 8192);  // another expert's
  EXPECT_EQ(begin_of_second(packed, lead, lead), lead);          // too short: it is that near anyway
  EXPECT_EQ(second_prefetch(packed, PrefetchRanges{}).codes.bytes, 0);
  WeightStrip in_place = packed;
  in_place.packed = false;
  EXPECT_EQ(begin_of_second(in_place, 8192, 8192), 8192);
}

}  // namespace
}  // namespace gqmm::cpu
