// moe_ffn as a graph of products and MLX's own functions, which have all transforms.
#pragma once

#include "expert_layer.hpp"

#include <mlx/array.h>
#include <mlx/stream.h>

namespace mx = ::mlx::core;

namespace gqmm::mlx {

/// Builds the layer. It rounds between the products where gqmm::moe_ffn does not.
mx::array layer_of_products(const ExpertLayerArguments& arguments, mx::Stream stream);

}  // namespace gqmm::mlx
