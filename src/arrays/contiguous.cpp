#include "arrays/contiguous.hpp"

#include "arrays/matrix_batch.hpp"
#include "threads/interrupt.hpp"

#include <algorithm>
#include <cstring>
#include <vector>

namespace gqmm::detail {
namespace {

// The side of a square that a transposing copy handles at once. Source and target stay in L1: 2 · 32² · 4 bytes = 8 KiB.
constexpr std::int64_t tile = 32;

template <std::size_t Size>
void copy_elements(const StridedMatrix from, std::byte* to, std::int64_t to_row_stride) {
  for (std::int64_t row_begin = 0; row_begin < from.rows; row_begin += tile) {
    for (std::int64_t col_begin = 0; col_begin < from.cols; col_begin += tile) {
      threads::throw_if_interrupted();
      for (std::int64_t row = row_begin; row < std::min(from.rows, row_begin + tile); ++row) {
        for (std::int64_t col = col_begin; col < std::min(from.cols, col_begin + tile); ++col) {
          std::memcpy(to + row * to_row_stride + col * static_cast<std::int64_t>(Size),
                      from.data + row * from.row_stride + col * from.col_stride, Size);
        }
      }
    }
  }
}

/// Returns matrix number `index` of a batch.
StridedMatrix matrix_of(const MatrixBatch& batch, std::int64_t index) {
  return {.data = batch.matrix(index),
          .row_stride = batch.row_stride(),
          .col_stride = batch.col_stride(),
          .rows = batch.rows(),
          .cols = batch.cols(),
          .itemsize = static_cast<std::int64_t>(size_of(batch.dtype()))};
}

}  // namespace

void copy_matrix(const StridedMatrix& from, std::byte* to, std::int64_t to_row_stride) {
  switch (from.itemsize) {
    case 1: return copy_elements<1>(from, to, to_row_stride);
    case 2: return copy_elements<2>(from, to, to_row_stride);
    case 4: return copy_elements<4>(from, to, to_row_stride);
    default: return copy_elements<8>(from, to, to_row_stride);
  }
}

bool has_contiguous_rows(const array& a) noexcept { return a.rank() == 0 || a.dim(-1) <= 1 || a.stride(-1) == a.itemsize(); }

array with_contiguous_rows(const array& a, std::span<const std::int64_t> used) {
  if (has_contiguous_rows(a) || a.size() == 0) {
    return a;
  }
  Shape stored = a.shape();
  for (int axis = 0; axis < a.rank() - 1; ++axis) {
    if (a.stride(axis) == 0) {
      stored[static_cast<std::size_t>(axis)] = 1;
    }
  }
  const array memory = array::empty(stored, a.dtype());
  Strides strides = memory.strides();
  for (int axis = 0; axis < a.rank() - 1; ++axis) {
    if (a.stride(axis) == 0) {
      strides[static_cast<std::size_t>(axis)] = 0;
    }
  }
  array copy = array::borrow(memory.bytes(), a.shape(), a.dtype(), std::move(strides), memory.owner());

  const MatrixBatch from(a);
  const MatrixBatch to(copy);
  const std::int64_t rows = memory.dim(-2);
  const std::int64_t to_row_stride = memory.stride(-2);
  const std::int64_t matrix_bytes = rows * to_row_stride;
  std::vector<bool> filled(static_cast<std::size_t>(memory.size() / (rows * memory.dim(-1))));
  for (const std::int64_t index : used) {
    if (index < 0) {
      continue;
    }
    const std::int64_t offset = to.matrix(index) - memory.bytes();
    const auto position = static_cast<std::size_t>(offset / matrix_bytes);
    if (!filled[position]) {
      filled[position] = true;
      StridedMatrix matrix = matrix_of(from, index);
      matrix.rows = rows;  // a single row, if all rows are the same
      copy_matrix(matrix, memory.mutable_bytes() + offset, to_row_stride);
    }
  }
  return copy;
}

array to_contiguous_rows(const array& a) { return has_contiguous_rows(a) ? a : copy_row_major(a); }

array copy_row_major(const array& a) {
  array copy = array::empty(a.shape(), a.dtype());
  const MatrixBatch from(a);
  const std::int64_t row_bytes = from.cols() * a.itemsize();
  for (std::int64_t index = 0; index < from.count(); ++index) {
    copy_matrix(matrix_of(from, index), copy.mutable_bytes() + index * from.rows() * row_bytes, row_bytes);
  }
  return copy;
}

}  // namespace gqmm::detail
