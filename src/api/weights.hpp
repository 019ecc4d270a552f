// Validation of quantized weights: the arrays w, scales, biases and global_scale must fit each other and their settings.
#pragma once

#include "formats/registry.hpp"
#include "internal_api.hpp"

#include <gqmm/array.hpp>
#include <gqmm/quantized_weights.hpp>

#include <cstdint>
#include <optional>
#include <string_view>

namespace gqmm::detail {

/// The address of an optional array, or nullptr if it is absent.
inline const array* address_of(const std::optional<array>& a) { return a ? &*a : nullptr; }

/// Calls resolve_settings of formats/registry.hpp for optional values.
GQMM_INTERNAL_API QuantizationSettings resolve_settings(std::string_view op, Mode mode, std::optional<int> bits,
                                                        std::optional<int> group_size);

/// Returns the settings of weights, with defaults filled in.
inline QuantizationSettings settings_of(std::string_view op, const QuantizedWeights& weights) {
  return resolve_settings(op, weights.mode, weights.bits, weights.group_size);
}

/// Throws std::invalid_argument if K weights are not a whole number of groups. The message tells the caller to pad `what`.
void check_whole_groups(std::string_view op, std::string_view what, std::int64_t K, const QuantizationSettings& settings);

struct WeightExtents {
  std::int64_t N = 0;
  std::int64_t K = 0;
};

/// Checks the arrays and returns their extents. Throws std::invalid_argument if the arrays do not have the types that the mode
/// wants, or if their shapes disagree. `settings` are those of the weights. `x_K`, if given, is the length of the rows of x and
/// must equal K.
WeightExtents check_weights(std::string_view op, const QuantizedWeights& weights, const QuantizationSettings& settings,
                            std::optional<std::int64_t> x_K);

/// Returns the shape of the dequantized weights: (…, N, K) if transpose is true, else (…, K, N).
Shape dequantized_shape(const QuantizedWeights& weights, const WeightExtents& extents);

/// Throws std::invalid_argument if global_scale is given and is wrong. It must be float32, with one value or of the shape
/// `leading` (nullptr: one value only), in a mode that has a global scale.
void check_global_scale(std::string_view op, Mode mode, const array* global_scale, const Shape* leading);

/// Returns the global scale in the shape (leading shape of w) + (1, 1), without a copy.
array global_scale_per_matrix(const array& global_scale, const Shape& leading);

/// Returns the type of the result. In affine mode x, scales and biases promote; in other modes it is the type of x.
Dtype result_dtype(const Format& format, Dtype x, Dtype scales, Dtype biases);

}  // namespace gqmm::detail
