// The weights of a product as the kernels take them: strips, dequantized panels, and the memory to prefetch.
#pragma once

#include "cpu/kernels/kernel_table.hpp"
#include "plan/weight_matrices.hpp"

#include <cstdint>

namespace gqmm::cpu {

/// Consecutive rows k of weights with rows along n. The codes lie where they are in memory, or were copied out of strips.
struct BlockAlongN {
  const std::byte* codes = nullptr;  // byte `first_byte` of row k0
  std::int64_t first_byte = 0;       // of a row of codes
  std::int64_t code_stride = 0;      // bytes between rows
  std::int64_t first_group = 0;
  std::int64_t groups = 0;
  const float* scales = nullptr;  // [k][group]
  std::int64_t to_biases = 0;     // floats from a scale to its bias
};

/// The weights ŵ (N, K) of every expert. The matrices must outlive the view.
class WeightView {
 public:
  WeightView(const WeightMatrices& weights, std::int64_t N, std::int64_t K, const KernelTable& kernels);

  /// The quantized matrices, or nullptr if the weights are dense.
  [[nodiscard]] const QuantizedMatrices* quantized() const noexcept { return quantized_; }
  /// The kernels of the weights' format.
  [[nodiscard]] const FormatKernels& format_kernels() const noexcept { return *format_; }
  [[nodiscard]] std::int64_t N() const noexcept { return N_; }
  [[nodiscard]] std::int64_t K() const noexcept { return K_; }
  [[nodiscard]] std::int64_t words_of_row() const noexcept { return words_; }
  /// The number of outputs of a strip that exist: 16, or fewer in the last strip.
  [[nodiscard]] int strip_outputs(std::int64_t strip) const noexcept {
    return strip + 1 < strips_ ? lanes : static_cast<int>(N_ - strip * lanes);
  }

  /// One strip of quantized weights whose groups lie along k.
  [[nodiscard]] WeightStrip strip(std::int64_t expert, std::int64_t strip) const;
  /// Whether a strip in memory already is the panel that the integer GEMM needs.
  [[nodiscard]] bool strips_are_panels() const noexcept {
    return quantized_->layout == WeightLayout::strips && format_->panel_is_raw;
  }

  /// The memory that `count` strips from `strip` on occupy, for prefetching. A range is empty if its rows have gaps between them.
  [[nodiscard]] PrefetchRanges ranges_of_strips(std::int64_t expert, std::int64_t strip, std::int64_t count) const;

  /// Weights with rows along n: k in [k0, k0 + count) of `strips` strips; k0 is a multiple of 16. Scales and biases are widened
  /// to float32 in `memory`, which has room for block_along_n_size floats; codes that lie in strips of k are copied there.
  [[nodiscard]] BlockAlongN block_along_n(std::int64_t expert, std::int64_t first_strip, std::int64_t strips, std::int64_t k0,
                                          std::int64_t count, float* memory) const;
  /// The number of floats that block_along_n needs for scales, biases and copied codes.
  [[nodiscard]] std::int64_t block_along_n_size(std::int64_t strips, std::int64_t count) const;
  /// ŵ of `strips` of those strips and the first `count` of those k → [strip][k][16] floats.
  void dequantize(const BlockAlongN& rows, std::int64_t first_strip, std::int64_t strips, std::int64_t count, float* out) const;
  /// What rows k in [k0, k0 + count) of weights with rows along n are made of, as far as they exist and lie without gaps.
  [[nodiscard]] PrefetchRanges ranges_along_n(std::int64_t expert, std::int64_t k0, std::int64_t count) const;
  /// One of those strips.
  [[nodiscard]] CodesAlongN codes_along_n(const BlockAlongN& rows, std::int64_t strip) const;

  /// Dequantizes `strips` strips for k in [k0, k0 + count) to [strip][k][16] floats; count ≤ 128. Lanes of outputs that do not
  /// exist hold arbitrary values. Where groups lie along k, k0 and count are multiples of the group size.
  void dequantize(std::int64_t expert, std::int64_t first_strip, std::int64_t strips, std::int64_t k0, std::int64_t count,
                  float* out) const;

 private:
  [[nodiscard]] float scale_factor(std::int64_t expert) const;
  [[nodiscard]] WeightStrip strip_of_rows(std::int64_t expert, std::int64_t strip) const;
  [[nodiscard]] WeightStrip packed_strip(std::int64_t expert, std::int64_t strip) const;
  /// A run of words, or of groups, of each row of codes.
  struct Columns {
    std::int64_t first;
    std::int64_t count;
  };
  /// The words that hold the codes of `strips` strips of outputs, in rows along n.
  [[nodiscard]] Columns words_of_strips(std::int64_t first_strip, std::int64_t strips) const;
  void widen_rows(const MatrixBatch& part, ScaleType type, std::int64_t expert, std::int64_t k0, std::int64_t count,
                  Columns groups, float* out) const;
  void copy_words(std::int64_t expert, std::int64_t k0, std::int64_t count, Columns words, std::byte* out) const;
  void widen_dense(std::int64_t expert, std::int64_t strip, std::int64_t k0, std::int64_t count, float* out) const;

  const WeightMatrices& weights_;
  const KernelTable& kernels_;
  const QuantizedMatrices* quantized_;
  std::int64_t N_;
  std::int64_t K_;
  std::int64_t strips_;
  const FormatKernels* format_ = nullptr;
  ScaleType scale_type_ = ScaleType::float32;
  ScaleType bias_type_ = ScaleType::float32;
  std::int64_t words_ = 0;   // words of a row of codes
  std::int64_t groups_ = 0;  // groups of a row of codes
  std::int64_t scale_bytes_ = 0;
  std::int64_t bias_bytes_ = 0;
};

}  // namespace gqmm::cpu
