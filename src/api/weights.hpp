// Validation of quantized weights: the arrays w, scales, biases and global_scale against each other and their settings.
#pragma once

#include "formats/registry.hpp"

#include <gqmm/array.hpp>
#include <gqmm/export.hpp>

#include <cstdint>
#include <optional>
#include <string_view>

namespace gqmm {

struct QuantizedWeights {
  const array& w;
  const array* scales = nullptr;
  const array* biases = nullptr;
  const array* global_scale = nullptr;
  QuantizationSettings settings;
  bool transpose = true;
};

/// Address of an optional array, null if it is absent.
inline const array* address_of(const std::optional<array>& a) { return a ? &*a : nullptr; }

/// resolve_settings of formats/registry.hpp over optionals.
GQMM_API QuantizationSettings resolve_settings(std::string_view op, Mode mode, std::optional<int> bits,
                                               std::optional<int> group_size);

/// Throws std::invalid_argument unless K weights are a whole number of groups. `what` is to be padded if not.
void check_whole_groups(std::string_view op, std::string_view what, std::int64_t K, const QuantizationSettings& settings);

struct WeightExtents {
  std::int64_t N = 0;
  std::int64_t K = 0;
};

/// Throws std::invalid_argument unless the arrays have the types that the mode wants and their shapes agree. `x_K`, if given, is
/// the length of the rows that the weights are to multiply and is checked as well.
WeightExtents check_weights(std::string_view op, const QuantizedWeights& weights, std::optional<std::int64_t> x_K);

/// Throws std::invalid_argument unless global_scale, if given, is float32, of one value or of the shape `leading` (null: one
/// value only), in a mode that has one.
void check_global_scale(std::string_view op, Mode mode, const array* global_scale, const Shape* leading);

/// The global scale as (leading shape of w) + (1, 1), without a copy.
array global_scale_per_matrix(const array& global_scale, const Shape& leading);

/// The type of the result: x, scales and biases promoted in affine mode, x's otherwise.
Dtype result_dtype(const Format& format, Dtype x, Dtype scales, Dtype biases);

}  // namespace gqmm
