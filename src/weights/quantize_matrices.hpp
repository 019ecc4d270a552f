// Quantizes floats to codes, scales and biases, in the arithmetic of mlx.core.quantize.
#pragma once

#include "formats/registry.hpp"

#include <gqmm/quantized_weights.hpp>

#include <cstdint>
#include <optional>

namespace gqmm::detail {

/// A weight that the format cannot hold.
struct UnfitWeight {
  std::int64_t position;  // flat row-major position in w
  float value;            // it is not finite, or it is not zero although the caller gave zero as the largest magnitude
};

/// Quantizes the last dimension of `w` into the arrays of `result`, which have the shapes and types of the result. `encode` is
/// the factor from a scale to its stored form, for formats with a global scale. It is infinite if all weights should be zero; for
/// other formats it is 1. The function stops at the first weight that does not fit and returns it; the values written before are
/// then unspecified. Throws Interrupted if this thread's InterruptCheck asked to stop.
[[nodiscard]] std::optional<UnfitWeight> quantize_matrices(const array& w, const QuantizationSettings& settings, float encode,
                                                           const QuantizedWeights& result);

}  // namespace gqmm::detail
