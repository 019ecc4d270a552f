// The weights of a Problem, in place or packed or dense, as the kernels take them.
#pragma once

#include "cpu/kernels/kernel_table.hpp"
#include "plan/packed.hpp"
#include "plan/problem.hpp"

#include <cstdint>

namespace gqmm::cpu {

/// Scales and biases of a block of k, [k][group].
struct RowScales {
  std::int64_t expert = 0;
  std::int64_t k0 = 0;
  std::int64_t first_group = 0;
  std::int64_t groups = 0;
  const float* scales = nullptr;
  std::int64_t to_biases = 0;  // floats from a scale to its bias
};

class Weights {
 public:
  Weights(const Problem& problem, const KernelTable& kernels);

  /// Strips of 16 outputs, the last one perhaps partial.
  [[nodiscard]] std::int64_t strips() const noexcept { return strips_; }
  [[nodiscard]] std::int64_t words_of_row() const noexcept { return words_; }
  /// Outputs of a strip that exist.
  [[nodiscard]] int strip_outputs(std::int64_t strip) const noexcept {
    return strip + 1 < strips_ ? lanes : static_cast<int>(problem_.N - strip * lanes);
  }

  /// A strip of quantized, transposed weights.
  [[nodiscard]] WeightStrip strip(std::int64_t expert, std::int64_t strip) const;

  /// What `count` strips from `strip` on will read, as far as it lies without gaps; else nothing.
  [[nodiscard]] Ahead ahead(std::int64_t expert, std::int64_t strip, std::int64_t count) const;

  /// Weights packed along N: scales and biases of k in [k0, k0 + count) and `strips` strips, as float32 in `out`, which has room
  /// for row_scales_size floats.
  [[nodiscard]] RowScales row_scales(std::int64_t expert, std::int64_t first_strip, std::int64_t strips, std::int64_t k0,
                                     std::int64_t count, float* out) const;
  [[nodiscard]] std::int64_t row_scales_size(std::int64_t strips, std::int64_t count) const;
  /// ŵ of `strips` of those strips and the first `count` of those k → [strip][k][16] floats.
  void dequantize(const RowScales& scales, std::int64_t first_strip, std::int64_t strips, std::int64_t count, float* out) const;
  /// What rows k in [k0, k0 + count) of weights packed along N are made of, as far as they exist and lie without gaps.
  [[nodiscard]] Ahead rows_ahead(std::int64_t expert, std::int64_t k0, std::int64_t count) const;
  /// One of those strips.
  [[nodiscard]] CodeRows code_rows(const RowScales& scales, std::int64_t strip) const;

  /// ŵ of `strips` strips and k in [k0, k0 + count), count ≤ 128, → [strip][k][16] floats; lanes of outputs that do not exist are
  /// arbitrary. Transposed weights: k0 and count are multiples of the group size.
  void dequantize(std::int64_t expert, std::int64_t first_strip, std::int64_t strips, std::int64_t k0, std::int64_t count,
                  float* out) const;

 private:
  [[nodiscard]] float scale_factor(std::int64_t expert) const;
  struct Rows {
    const std::byte* first;
    std::int64_t stride;  // bytes
  };
  /// Rows k, k + 1, … of one of the arrays of weights packed along N.
  [[nodiscard]] Rows rows_along_n(const MatrixBatch& in_place, array PackedWeights::Data::* packed, std::int64_t row_bytes,
                                  std::int64_t expert, std::int64_t k) const;
  void widen_dense(std::int64_t expert, std::int64_t strip, std::int64_t k0, std::int64_t count, float* out) const;

  const Problem& problem_;
  const KernelTable& kernels_;
  const FormatKernels* format_ = nullptr;
  ScaleType scale_type_ = ScaleType::float32;
  ScaleType bias_type_ = ScaleType::float32;
  std::int64_t strips_ = 0;
  std::int64_t words_ = 0;   // of a packed row
  std::int64_t groups_ = 0;  // of a packed row
  std::int64_t scale_bytes_ = 0;
  std::int64_t bias_bytes_ = 0;
};

}  // namespace gqmm::cpu
