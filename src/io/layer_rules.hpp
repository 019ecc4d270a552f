// Decides which tensors of a float checkpoint are matrices of a layer. The rules follow mlx-lm's. A checkpoint does not state
// the class of a module, so names and shapes decide. docs/guide/quantize.md states the rules for users.
#pragma once

#include "io/safetensors.hpp"

#include <nlohmann/json.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace gqmm::io {

/// The facts of config.json that the rules need.
struct ModelFacts {
  std::string type;                     ///< "model_type"; empty if there is no config.json
  bool tied_embeddings = false;         ///< true if the output layer uses the weights of the embedding, not its own
  std::optional<std::int64_t> experts;  ///< "num_experts" or "num_local_experts"
  bool normalizes_head = false;         ///< true if mlx-lm divides the rows of lm_head by their norm at loading
};

[[nodiscard]] ModelFacts facts_of(const nlohmann::json& config);

struct LayerDecision {
  bool quantized = false;
  bool forced = false;  ///< true if the tensor is not quantized and no option may change that
  int bits = 0;         ///< 8 if mlx-lm takes affine 8-bit in groups of 64 for this layer; 0 for what the command asks for
  std::string reason;   ///< why the tensor is not quantized
};

/// Decides whether the tensor `name` is quantized. Its type and whether its rows are whole groups are not considered. `lone_file`
/// says that the file is not part of a model. There a tensor whose name has no dot is a matrix too.
[[nodiscard]] LayerDecision decide_layer(const ModelFacts& facts, std::string_view name, const Shape& shape, bool lone_file);

/// The layer of a tensor, which is its name without ".weight".
[[nodiscard]] std::string layer_of(std::string_view name);

}  // namespace gqmm::io
