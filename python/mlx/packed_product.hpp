// gather_qmm and quantized_matmul with packed parameters, as a primitive of MLX.
#pragma once

#include "packed_parameters.hpp"
#include "quantized_product.hpp"

#include <memory>

namespace gqmm::mlx {

/// Makes the product of `operands`. Their weights are all the parts of `packed`, and a global_scale if there is one. The product
/// is x @ w.T, because parameters are packed for that.
mx::array packed_product(const ProductArrays& operands, const QuantizedProductSettings& settings, mx::Stream stream,
                         std::shared_ptr<const PackedParameters> packed);

}  // namespace gqmm::mlx
