// Quantized weights of either kind, in place or packed, in the form that the lowering of every operator uses.
#pragma once

#include "api/kept_memory.hpp"
#include "api/output.hpp"
#include "api/weights.hpp"
#include "plan/packed.hpp"
#include "plan/weight_matrices.hpp"

#include <gqmm/packed_weights.hpp>
#include <gqmm/quantized_weights.hpp>

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string_view>
#include <variant>

namespace gqmm::detail {

/// The weights of a quantized product as the caller has them, in place or packed. The caller keeps them alive.
using AnyWeights = std::variant<std::reference_wrapper<const QuantizedWeights>, std::reference_wrapper<const PackedWeights>>;

/// Weights after their checks.
struct WeightSource {
  Shape leading;
  WeightExtents extents;
  QuantizationSettings settings = {};
  Dtype scales = Dtype::float32;  // the type of the scales
  Dtype biases = Dtype::float32;  // the type of the biases; that of the scales if the format has none
  // Exactly one of the two is set; the caller keeps it alive.
  const QuantizedWeights* in_place = nullptr;
  const PackedWeights::Data* packed = nullptr;
};

/// Checks the weights. `x_K`, if given, is the length of the rows of x and must equal K. Throws std::invalid_argument.
WeightSource source_of(std::string_view op, AnyWeights weights, std::optional<std::int64_t> x_K);

/// Returns the type of a product with x of type `x`.
inline Dtype result_dtype(const WeightSource& source, Dtype x) {
  return result_dtype(*source.settings.format, x, source.scales, source.biases);
}

/// Returns the source's matrices. `memory` keeps copies of parts whose rows have gaps; `used` are the matrices that the operator
/// reads.
QuantizedMatrices matrices_of(const WeightSource& source, std::span<const std::int64_t> used, KeptMemory& memory);

/// The arrays that an operator reads of the weights.
std::array<NamedOperand, 4> operands_of(const WeightSource& source);

}  // namespace gqmm::detail
