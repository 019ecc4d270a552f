// Packed weights back to the arrays that they were packed from.
#pragma once

#include "plan/packed.hpp"

#include <gqmm/array.hpp>

#include <optional>

namespace gqmm {

struct UnpackedWeights {
  array w;
  array scales;
  std::optional<array> biases;
  std::optional<array> global_scale;  // (leading shape of w)
};

/// Row-major copies, bit for bit what pack was given.
[[nodiscard]] UnpackedWeights unpack(const PackedWeights& packed);

}  // namespace gqmm
