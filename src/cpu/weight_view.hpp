// The weights of a product as the kernels take them: strips, dequantized panels, and the memory to prefetch.
#pragma once

#include "cpu/kernels/kernel_table.hpp"
#include "plan/weight_matrices.hpp"

#include <algorithm>
#include <cstddef>
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

/// The strips of one expert, whose groups lie along k.
class ExpertStrips {
 public:
  ExpertStrips() = default;

  [[nodiscard]] WeightStrip strip(std::int64_t strip) const {
    WeightStrip result = first_;
    result.codes += strip * codes_step_;
    result.scales += strip * scales_step_;
    result.biases += strip * biases_step_;  // 0 · 0 without biases
    result.rows = result.packed ? lanes : static_cast<int>(outputs(strip, 1));
    return result;
  }
  /// The memory that `count` strips from `strip` on occupy, for prefetching. A range is empty if its rows have gaps between them.
  [[nodiscard]] PrefetchRanges ranges(std::int64_t strip, std::int64_t count) const {
    const std::int64_t rows = first_.packed ? count * lanes : outputs(strip, count);
    const auto range = [&](const std::byte* begin, std::int64_t step, std::int64_t row_bytes) {
      return row_bytes == 0 ? MemoryRange{} : MemoryRange{begin + strip * step, rows * row_bytes};
    };
    return {.codes = range(first_.codes, codes_step_, codes_row_),
            .scales = range(first_.scales, scales_step_, scales_row_),
            .biases = range(first_.biases, biases_step_, biases_row_)};
  }

 private:
  friend class WeightView;
  [[nodiscard]] std::int64_t outputs(std::int64_t strip, std::int64_t count) const {
    return std::min(count * lanes, N_ - strip * lanes);
  }

  WeightStrip first_;
  std::int64_t N_ = 0;
  // Bytes from a strip to the next one.
  std::int64_t codes_step_ = 0;
  std::int64_t scales_step_ = 0;
  std::int64_t biases_step_ = 0;
  // Bytes of a row; 0 if rows have gaps between them.
  std::int64_t codes_row_ = 0;
  std::int64_t scales_row_ = 0;
  std::int64_t biases_row_ = 0;
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

  /// The strips of an expert. Dense weights, and those with rows along n, have none.
  [[nodiscard]] ExpertStrips strips(std::int64_t expert) const;
  /// One of them.
  [[nodiscard]] WeightStrip strip(std::int64_t expert, std::int64_t strip) const { return strips(expert).strip(strip); }
  /// Whether a strip in memory already is the panel that the integer GEMM needs.
  [[nodiscard]] bool strips_are_panels() const noexcept {
    return quantized_->layout == WeightLayout::strips && format_->panel_is_raw;
  }

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
