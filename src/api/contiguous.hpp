// Copies for operands whose last dimension is not contiguous, the one layout that kernels do not read in place.
#pragma once

#include <gqmm/array.hpp>

#include <cstddef>
#include <cstdint>
#include <span>

namespace gqmm {

/// Elements of `itemsize` bytes, any distances in bytes between rows and between columns.
struct StridedMatrix {
  const std::byte* data;
  std::int64_t row_stride;
  std::int64_t col_stride;
  std::int64_t rows;
  std::int64_t cols;
  std::size_t itemsize;  // 1, 2, 4 or 8
};
/// Copies a matrix to rows that have no gaps within and lie `to_row_stride` bytes apart.
void copy_matrix(const StridedMatrix& from, std::byte* to, std::int64_t to_row_stride);

/// True if neighbours along the last dimension are neighbours in memory. Other dimensions and the address are free.
[[nodiscard]] bool has_contiguous_rows(const array& a) noexcept;

/// `a` itself if its rows are contiguous, else a copy in which they are. Only the matrices at the flat positions `used` are
/// filled, so that a call pays for what it reads; dimensions of stride 0 stay so.
[[nodiscard]] array with_contiguous_rows(const array& a, std::span<const std::int64_t> used);

/// `a` itself if its rows are contiguous, else a row-major copy of it.
[[nodiscard]] array to_contiguous_rows(const array& a);

/// A row-major copy of `a`, which must have at least two dimensions.
[[nodiscard]] array copy_row_major(const array& a);

}  // namespace gqmm
