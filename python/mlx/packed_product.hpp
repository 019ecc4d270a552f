// gather_qmm and quantized_matmul over packed parameters, as a primitive of MLX.
#pragma once

#include "packed_parameters.hpp"
#include "quantized_product.hpp"

#include <memory>

namespace gqmm::mlx {

/// The product of `operands`, whose weights are all the parts of `packed`, and a global_scale if there is one. It is transposed,
/// as packed parameters are.
mx::array packed_product(const Operands& operands, const QuantizedProductSettings& settings, mx::Stream stream,
                         std::shared_ptr<const PackedParameters> packed);

}  // namespace gqmm::mlx
