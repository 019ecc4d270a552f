// Copies operands whose last dimension is not contiguous. This is the only layout that kernels do not read in place.
#pragma once

#include "namespaces.hpp"

#include <gqmm/array.hpp>

#include <cstddef>
#include <cstdint>
#include <span>

namespace gqmm::detail {

/// A matrix with elements of `itemsize` bytes, and with any distances in bytes between rows and between columns.
struct StridedMatrix {
  const std::byte* data;
  std::int64_t row_stride;
  std::int64_t col_stride;
  std::int64_t rows;
  std::int64_t cols;
  std::int64_t itemsize;  // 1, 2, 4 or 8
};
/// Copies a matrix to rows without gaps, which lie `to_row_stride` bytes apart.
void copy_matrix(const StridedMatrix& from, std::byte* to, std::int64_t to_row_stride);

/// Whether neighbours along the last dimension are neighbours in memory. Other dimensions and the address are free.
[[nodiscard]] bool has_contiguous_rows(const array& a) noexcept;

/// Returns `a` itself if its rows are contiguous, else a copy whose rows are. In the copy, only the matrices at the flat
/// positions `used` are filled, so that a call pays only for what it reads; negative positions are skipped. Dimensions of stride
/// 0 keep it.
[[nodiscard]] array with_contiguous_rows(const array& a, std::span<const std::int64_t> used);

/// Returns `a` itself if its rows are contiguous, else a row-major copy.
[[nodiscard]] array to_contiguous_rows(const array& a);

/// Returns a row-major copy of `a`, which must have at least two dimensions.
[[nodiscard]] array copy_row_major(const array& a);

}  // namespace gqmm::detail
