// Copies the rows of a strip (rows of w). Kernels load a fixed number of bytes from 16 rows, so they read a copy where the strip
// does not have as much.
#pragma once

#include "assertion.hpp"
#include "cpu/kernels/kernel_table.hpp"

#include <bit>

namespace gqmm::cpu {
namespace {

/// Copies `bytes` bytes of each row, at most `capacity`, to out[16][capacity]. Zeros fill the rest of the last block of `block`
/// bytes. Rows that do not exist repeat the last one.
template <int capacity, int block>
[[gnu::noinline, gnu::cold]] void copy_strip_rows(const std::byte* first_row, std::int64_t stride, int rows, std::int64_t bytes,
                                                  std::byte* out) {
  GQMM_ASSERT(rows >= 1 && rows <= lanes && bytes >= 0 && bytes <= capacity);
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
    if (at < end) {  // these are library calls, which cost time even if there is nothing to copy
      __builtin_memcpy(to + at, row + at, static_cast<std::size_t>(bytes - at));
      __builtin_memset(to + bytes, 0, static_cast<std::size_t>(end - bytes));
    }
  }
}

static_assert(std::endian::native == std::endian::little, "codes and scales are little-endian, and so are all kernels");

/// Loads `bytes` < 8 bytes of memory as an integer. The first byte is the lowest one, and the bits above the last byte are zero.
[[gnu::always_inline]] inline std::uint64_t load_short(const std::byte* from, std::int64_t bytes) {
  GQMM_ASSERT(bytes >= 0 && bytes < 8);
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

/// Bytes of each row that copy_short_rows writes.
inline constexpr int short_row = 16;

/// Copies `bytes` bytes of each row, 1 … 16, to out[16][short_row]; zeros follow them. Rows that do not exist repeat the last
/// one. Each row is written by one store, because a later load would have to wait for two stores.
[[gnu::noinline]] inline void copy_short_rows(const std::byte* first_row, std::int64_t stride, int rows, std::int64_t bytes,
                                              std::byte* out) {
  GQMM_ASSERT(rows >= 1 && rows <= lanes && bytes >= 1 && bytes <= short_row);
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
