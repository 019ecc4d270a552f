// The problem of the depthwise convolution, as the API hands it down.
#pragma once

#include "arrays/matrix_batch.hpp"

#include <cstddef>
#include <cstdint>

namespace gqmm::detail {

/// The rows of sequences, and the taps of each channel (include/gqmm/convolution.hpp). No extent is 0 but that of rows of x.
struct ConvolutionProblem {
  MatrixBatch x;          // (rows, channels) for each sequence, rows without gaps
  MatrixBatch weight;     // one matrix: (channels, taps)
  std::int64_t rows = 0;  // of a sequence of y
  std::int64_t stride = 1;
  std::int64_t dilation = 1;
  std::int64_t padding_before = 0;
  std::byte* y = nullptr;  // row-major (sequences, rows, channels)
  Dtype y_dtype = Dtype::float32;
  int threads = 0;  // of the call's stream

  [[nodiscard]] std::int64_t channels() const noexcept { return x.cols(); }
  [[nodiscard]] std::int64_t taps() const noexcept { return weight.cols(); }
  /// The row of x that a tap of a row of y reads. Where x has no such row, it is one of zeros.
  [[nodiscard]] std::int64_t x_row(std::int64_t row, std::int64_t tap) const noexcept {
    return row * stride + tap * dilation - padding_before;
  }
  [[nodiscard]] bool has_row(std::int64_t x_row) const noexcept { return x_row >= 0 && x_row < x.rows(); }
};

}  // namespace gqmm::detail
