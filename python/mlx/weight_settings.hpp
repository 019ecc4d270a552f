// The settings that say how to read the arrays of quantized weights.
#pragma once

#include <gqmm/packed_weights.hpp>
#include <gqmm/quantized_weights.hpp>

namespace gqmm::mlx {

/// The settings of QuantizedWeights. Each has a value, and none is left to a default.
struct WeightSettings {
  Mode mode = Mode::affine;
  int bits = 4;
  int group_size = 64;
  bool transpose = true;
  friend bool operator==(const WeightSettings&, const WeightSettings&) = default;

  /// Whether packed weights have these settings.
  [[nodiscard]] bool are_of(const PackedWeights& packed) const {
    return *this == WeightSettings{packed.mode(), packed.bits(), packed.group_size(), packed.transpose()};
  }
  /// Returns weights with these settings and without arrays, which the caller sets.
  [[nodiscard]] QuantizedWeights without_arrays() const {
    return {.mode = mode, .bits = bits, .group_size = group_size, .transpose = transpose};
  }
};

}  // namespace gqmm::mlx
