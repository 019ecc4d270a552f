// The weights of a product: quantized matrices in one of four layouts, or dense ones. Every layer from the API to the kernels
// takes these two types, so what is known about a weight matrix stands in one place.
#pragma once

#include "arrays/matrix_batch.hpp"
#include "formats/registry.hpp"

#include <cstdint>
#include <variant>

namespace gqmm::detail {

/// The number of outputs of a strip. It is the same for every instruction set, so packed weights do not depend on the machine.
inline constexpr std::int64_t strip_width = 16;

/// The number of strips for `outputs` outputs. The last strip may be partial.
constexpr std::int64_t strips_of(std::int64_t outputs) { return outputs / strip_width + (outputs % strip_width != 0 ? 1 : 0); }

/// The layout of quantized matrices in memory. docs/reference/formats.md draws the first three.
enum class WeightLayout : std::uint8_t {
  rows_along_k,  ///< MLX's layout with transpose=True: row n holds the codes of all k
  rows_along_n,  ///< MLX's layout with transpose=False: row k holds the codes of all n
  strips,        ///< packed weights with transpose=True: word j of 16 consecutive rows n is one line of 64 bytes
  strips_of_k,   ///< the same memory in a product with the other transpose: word j of 16 consecutive rows k is one line
};

/// Quantized matrices ŵ, one for each expert:
///
///     rows_along_k   codes (expert, N, words), scales and biases (expert, N, groups)
///     rows_along_n   codes (expert, K, words), scales and biases (expert, K, groups)
///     strips         codes (expert · strips + strip, words, 16), scales and biases (expert · strips + strip, groups, 16)
///     strips_of_k    as strips, where the strips count k
struct QuantizedMatrices {
  QuantizationSettings settings = {};
  WeightLayout layout = WeightLayout::rows_along_k;
  std::int64_t experts = 0;
  MatrixBatch codes;         // uint32 words
  MatrixBatch scales;        // a compute float, or the bytes of the format's scale encoding
  MatrixBatch biases;        // empty where the format has none
  MatrixBatch global_scale;  // float32 (expert, 1, 1); empty without one

  [[nodiscard]] const Format& format() const noexcept { return *settings.format; }
  [[nodiscard]] int group_size() const noexcept { return settings.group_size; }
  /// Is the product y = x · ŵᵀ, with groups along k?
  [[nodiscard]] bool transpose() const noexcept { return layout == WeightLayout::rows_along_k || layout == WeightLayout::strips; }
  /// Do 16 rows of codes lie interleaved in strips?
  [[nodiscard]] bool in_strips() const noexcept { return layout == WeightLayout::strips || layout == WeightLayout::strips_of_k; }
};

/// Dense matrices of a compute float: (expert, K, N), at any strides.
struct DenseMatrices {
  MatrixBatch b;
};

using WeightMatrices = std::variant<QuantizedMatrices, DenseMatrices>;

/// The quantized matrices, or nullptr if the weights are dense.
inline const QuantizedMatrices* quantized(const WeightMatrices& weights) { return std::get_if<QuantizedMatrices>(&weights); }

inline std::int64_t experts_of(const WeightMatrices& weights) {
  const QuantizedMatrices* matrices = quantized(weights);
  return matrices != nullptr ? matrices->experts : std::get<DenseMatrices>(weights).b.count();
}

/// The same matrices for a product with the other transpose, whose N is this one's K: y · ŵ instead of x · ŵᵀ. No memory moves.
WeightMatrices transposed(const WeightMatrices& weights);

/// Can a product over these weights run on integers? Some groups and outputs take the float path all the same.
inline bool multiplies_integers(const WeightMatrices& weights) {
  const QuantizedMatrices* matrices = quantized(weights);
  return matrices != nullptr && matrices->format().integer.exists && matrices->transpose();
}

/// The factor by which nvfp4's global scale multiplies its E4M3 scales. It is computed as mlx.core.dequantize computes it.
inline float nvfp4_scale_factor(float global_scale) { return global_scale / (largest_value(e4m3) * largest_value(e2m1)); }

}  // namespace gqmm::detail
