// A batch of matrices inside an array. The last two dimensions are the matrix; the leading ones count the matrices.
#pragma once

#include "namespaces.hpp"

#include <gqmm/array.hpp>

#include <cstdint>
#include <utility>
#include <vector>

namespace gqmm::detail {

class MatrixBatch {
 public:
  MatrixBatch() = default;
  /// `a` must have at least two dimensions. The memory must outlive this view.
  explicit MatrixBatch(const array& a);
  /// Row-major matrices without gaps.
  MatrixBatch(const void* data, std::int64_t count, std::int64_t rows, std::int64_t cols, Dtype dtype);
  /// Each row of `a` as a matrix of one row. `a` must have at least one dimension.
  [[nodiscard]] static MatrixBatch of_rows(const array& a);

  [[nodiscard]] bool empty() const noexcept { return base_ == nullptr; }
  [[nodiscard]] std::int64_t count() const noexcept { return count_; }
  [[nodiscard]] std::int64_t rows() const noexcept { return rows_; }
  [[nodiscard]] std::int64_t cols() const noexcept { return cols_; }
  /// Bytes between rows and between elements of a row.
  [[nodiscard]] std::int64_t row_stride() const noexcept { return row_stride_; }
  [[nodiscard]] std::int64_t col_stride() const noexcept { return col_stride_; }
  [[nodiscard]] Dtype dtype() const noexcept { return dtype_; }

  /// The address of the first element of the matrix at flat position `index` of the leading dimensions.
  [[nodiscard]] const std::byte* matrix(std::int64_t index) const noexcept {
    std::int64_t offset = 0;
    for (auto dim = leading_.rbegin(); dim != leading_.rend(); ++dim) {
      offset += index % dim->extent * dim->stride;
      index /= dim->extent;
    }
    return base_ + offset + index * outer_stride_;
  }
  [[nodiscard]] const std::byte* row(std::int64_t index, std::int64_t row) const noexcept {
    return matrix(index) + row * row_stride_;
  }
  /// The same matrices with rows and columns exchanged.
  [[nodiscard]] MatrixBatch transposed() const {
    MatrixBatch other = *this;
    std::swap(other.rows_, other.cols_);
    std::swap(other.row_stride_, other.col_stride_);
    return other;
  }

 private:
  /// Makes the first `axes` dimensions of `a` those that count the matrices.
  void count_along(const array& a, int axes);

  struct Dim {
    std::int64_t extent;
    std::int64_t stride;
  };
  const std::byte* base_ = nullptr;
  std::int64_t count_ = 0;
  std::int64_t rows_ = 0;
  std::int64_t cols_ = 0;
  std::int64_t row_stride_ = 0;
  std::int64_t col_stride_ = 0;
  // The leading dimensions that do not collapse into one. The outermost one is not among them; its stride is outer_stride_.
  std::vector<Dim> leading_;
  std::int64_t outer_stride_ = 0;
  Dtype dtype_ = Dtype::float32;
};

}  // namespace gqmm::detail
