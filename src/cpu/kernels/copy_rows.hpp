// A copy of part of a strip's rows, for loads of a fixed size from 16 rows where the strip does not have as much.
#pragma once

#include "cpu/kernels/kernel_table.hpp"

namespace gqmm::cpu {
namespace {

/// `bytes` of each row, at most `capacity`, → out[16][capacity]. The rest is zero; rows that do not exist repeat the last one.
template <int capacity>
[[gnu::noinline, gnu::cold]] void copy_rows(const std::byte* first_row, std::int64_t stride, int rows, std::int64_t bytes,
                                            std::byte* out) {
  if (rows == lanes && bytes == capacity) {
#pragma GCC unroll 16
    for (int n = 0; n < lanes; ++n) {
      __builtin_memcpy(out + n * capacity, first_row + n * stride, capacity);
    }
    return;
  }
  __builtin_memset(out, 0, lanes * capacity);
  for (int n = 0; n < lanes; ++n) {
    __builtin_memcpy(out + n * capacity, first_row + (n < rows ? n : rows - 1) * stride, static_cast<std::size_t>(bytes));
  }
}

}  // namespace
}  // namespace gqmm::cpu
