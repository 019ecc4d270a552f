// Copies of a strip's rows, for loads of a fixed size from 16 rows where the strip does not have as much.
#pragma once

#include "cpu/kernels/kernel_table.hpp"

#include <bit>

namespace gqmm::cpu {
namespace {

/// `bytes` of each row, at most `capacity`, → out[16][capacity], and zeros up to a whole number of blocks. Rows that do not exist
/// repeat the last one.
template <int capacity, int block>
[[gnu::noinline, gnu::cold]] void copy_rows(const std::byte* first_row, std::int64_t stride, int rows, std::int64_t bytes,
                                            std::byte* out) {
  if (rows == lanes && bytes == capacity) {
#pragma GCC unroll 16
    for (int n = 0; n < lanes; ++n) {
      __builtin_memcpy(out + n * capacity, first_row + n * stride, capacity);
    }
    return;
  }
  static_assert(capacity % block == 0);
  const std::int64_t end = (bytes + block - 1) / block * block;
  for (int n = 0; n < lanes; ++n) {
    const std::byte* row = first_row + (n < rows ? n : rows - 1) * stride;
    std::byte* to = out + n * capacity;
    std::int64_t at = 0;
    for (; at + 64 <= bytes; at += 64) {
      __builtin_memcpy(to + at, row + at, 64);
    }
    if (at < end) {  // calls, even where there is nothing to copy
      __builtin_memcpy(to + at, row + at, static_cast<std::size_t>(bytes - at));
      __builtin_memset(to + bytes, 0, static_cast<std::size_t>(end - bytes));
    }
  }
}

static_assert(std::endian::native == std::endian::little, "codes and scales are little-endian, and so are all kernels");

/// The first `bytes` < 8 of memory, the first one lowest, and zeros above them.
[[gnu::always_inline]] inline std::uint64_t load_short(const std::byte* from, std::int64_t bytes) {
  std::uint64_t value = 0;
  int shift = 0;
  const auto append = [&]<class Part>() {
    Part part;
    __builtin_memcpy(&part, from, sizeof part);
    value |= static_cast<std::uint64_t>(part) << shift;
    from += sizeof part;
    shift += 8 * static_cast<int>(sizeof part);
  };
  if ((bytes & 4) != 0) {
    append.template operator()<std::uint32_t>();
  }
  if ((bytes & 2) != 0) {
    append.template operator()<std::uint16_t>();
  }
  if ((bytes & 1) != 0) {
    append.template operator()<std::uint8_t>();
  }
  return value;
}

/// What copy_short_rows copies of a row.
inline constexpr int short_row = 16;

/// `bytes` of each row, 1 … 16, → out[16][short_row], and zeros after them. Rows that do not exist repeat the last one. Each row
/// is one store, so that a load need not wait for two to be written.
[[gnu::noinline]] inline void copy_short_rows(const std::byte* first_row, std::int64_t stride, int rows, std::int64_t bytes,
                                              std::byte* out) {
  using Row = std::uint64_t __attribute__((vector_size(short_row)));
  for (int n = 0; n < lanes; ++n) {
    const std::byte* row = first_row + (n < rows ? n : rows - 1) * stride;
    Row copy = {};
    if (bytes == short_row) {
      __builtin_memcpy(&copy, row, short_row);
    } else if (bytes >= 8) {
      std::uint64_t low = 0;
      __builtin_memcpy(&low, row, 8);
      copy = Row{low, load_short(row + 8, bytes - 8)};
    } else {
      copy = Row{load_short(row, bytes), 0};
    }
    __builtin_memcpy(out + n * short_row, &copy, short_row);
  }
}

}  // namespace
}  // namespace gqmm::cpu
