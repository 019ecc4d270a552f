// Converts codes, scales and biases back to floats, in the arithmetic of mlx.core.dequantize.
#pragma once

#include "plan/weight_matrices.hpp"

#include <cstddef>

namespace gqmm::detail {

/// The types to which intermediate values and the result are rounded.
struct DequantizedTypes {
  Dtype product;  // type of the scale and of scale · value(code)
  Dtype sum;      // type of that product plus the bias
  Dtype result;
};

/// Writes ŵ of every row, row-major, to `to`. The rows of codes must have no gaps, whether they lie along k or n. Scales and
/// biases may have any strides. Throws Interrupted if this thread's InterruptCheck asked to stop.
void dequantize_matrices(const QuantizedMatrices& matrices, const DequantizedTypes& types, std::byte* to);

}  // namespace gqmm::detail
