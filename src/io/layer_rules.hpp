// Which tensors of a float checkpoint are matrices of a layer, as mlx-lm quantizes them. A checkpoint does not say which class a
// module has, so names and shapes decide; docs/quantize.md states the rules for users.
#pragma once

#include "io/safetensors.hpp"

#include <nlohmann/json.hpp>

#include <cstdint>
#include <string>
#include <string_view>

namespace gqmm::io {

/// What the rules need of config.json.
struct ModelFacts {
  std::string type;              ///< "model_type"; empty without a config.json
  bool tied_embeddings = false;  ///< the output layer is the embedding, and its own weights are not used
  std::int64_t experts = 0;      ///< "num_experts" or "num_local_experts"; 0 if it has neither
  bool normalizes_head = false;  ///< the model divides the rows of lm_head by their norm when it is loaded
};

[[nodiscard]] ModelFacts facts_of(const nlohmann::json& config);

struct LayerDecision {
  bool quantized = false;
  bool forced = false;  ///< not quantized, and no option may change that
  int bits = 0;         ///< 8 for a layer that mlx-lm keeps at affine 8-bit in groups of 64; 0: what the command asks for
  std::string reason;   ///< why it stays
};

/// `name` is that of the tensor, `layer` what belongs before ".weight". The numbers of a tensor (type, whole groups) are not
/// looked at. `lone_file`: a file that is no model, where a name without a dot is a matrix too.
[[nodiscard]] LayerDecision decide_layer(const ModelFacts& facts, std::string_view name, const Shape& shape, bool lone_file);

/// The layer of a tensor: its name without ".weight".
[[nodiscard]] std::string layer_of(std::string_view name);

}  // namespace gqmm::io
