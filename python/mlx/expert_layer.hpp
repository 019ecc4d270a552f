// moe_ffn as a primitive of MLX.
#pragma once

#include "functions.hpp"
#include "packed_copy.hpp"
#include "packed_parameters.hpp"
#include "weight_settings.hpp"

#include <gqmm/moe.hpp>

#include <mlx/array.h>
#include <mlx/utils.h>

#include <memory>
#include <optional>
#include <vector>

namespace mx = ::mlx::core;

namespace gqmm::mlx {

/// One linear layer of the experts, in MLX's types.
struct LinearArguments {
  std::optional<QuantizedArguments> quantized = {};  // w, scales, biases, global_scale and settings; nothing else of it is read
  std::optional<mx::array> dense = {};               // (E, outputs, inputs), if it is not quantized
  std::optional<mx::array> bias = {};                // (E, outputs)
};

/// The arguments of moe_ffn.
struct ExpertLayerArguments {
  mx::array x;
  mx::array topk_ids;
  std::optional<mx::array> topk_weights = {};
  LinearArguments gate = {};
  std::optional<LinearArguments> up = {};
  LinearArguments down = {};
  Activation activation = SwiGLU();
  GateUpOrder order = GateUpOrder::gate_up;
  Missing missing = Missing::error;
  std::optional<LocalExperts> local_experts = {};
  Precision precision = Precision::standard;
  mx::StreamOrDevice stream = {};
};

/// Makes the layer as an array of a graph: (…, H), or (…, k, H) without topk_weights. On another device than the CPU, and for
/// types and modes that gqmm does not know, the graph has the products and MLX's own functions between them. Throws
/// std::invalid_argument as gqmm::moe_ffn does for shapes and types.
mx::array moe_ffn(const ExpertLayerArguments& arguments);

}  // namespace gqmm::mlx
