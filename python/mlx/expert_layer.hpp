// moe_ffn as a primitive of MLX.
#pragma once

#include "functions.hpp"

#include <gqmm/moe.hpp>

#include <mlx/array.h>
#include <mlx/utils.h>

#include <optional>

namespace mx = ::mlx::core;

namespace gqmm::mlx {

/// One linear layer of experts, in MLX's types.
struct LinearArguments {
  std::optional<QuantizedArguments> quantized = {};  // w, scales, biases, global_scale and settings; nothing else of it is read
  std::optional<mx::array> dense = {};               // (E, outputs, inputs), if it is not quantized
  std::optional<mx::array> bias = {};                // (E, outputs)
};

/// The layers of a feed-forward block, and the activation between them.
struct FeedForwardArguments {
  LinearArguments gate = {};
  std::optional<LinearArguments> up = {};
  LinearArguments down = {};
  Activation activation = SwiGLU();
};

/// Experts that every token takes. Their arrays have no dimension E, or one of extent 1.
struct SharedExpertsArguments {
  FeedForwardArguments layers = {};
  std::optional<mx::array> scale = {};  // the factor of each token's result, (…) or (…, 1)
};

/// The arguments of moe_ffn.
struct ExpertLayerArguments {
  mx::array x;
  mx::array topk_ids;
  std::optional<mx::array> topk_weights = {};
  FeedForwardArguments experts = {};
  std::optional<SharedExpertsArguments> shared = {};
  GateUpOrder order = GateUpOrder::gate_up;
  bool router_weight_on_input = false;
  Missing missing = Missing::error;
  std::optional<LocalExperts> local_experts = {};
  Precision precision = Precision::standard;
  mx::StreamOrDevice stream = {};
};

/// Makes the layer as an array of a graph: (…, H), or (…, k, H) without topk_weights. On another device than the CPU the graph
/// has the products and MLX's own functions between them. Throws std::invalid_argument as gqmm::moe_ffn does for shapes, types
/// and settings.
mx::array moe_ffn(const ExpertLayerArguments& arguments);

}  // namespace gqmm::mlx
