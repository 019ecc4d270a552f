// The tensors of a checkpoint under MLX's names. Transformers keeps one tensor for each expert, or fuses two layers into one.
// mlx-lm changes that when it loads a model ("sanitize"). The change must be made before weights are quantized.
#pragma once

#include "io/layer_rules.hpp"
#include "io/safetensors.hpp"

#include <string>
#include <string_view>
#include <vector>

namespace gqmm::io {

struct NamedTensor {
  std::string name;
  const Tensor* tensor;
};

/// One tensor under MLX's name. It is a single tensor of the file, or the tensors of all experts one after another.
struct SourceTensor {
  std::string name;
  Shape shape;
  std::string type;
  std::vector<NamedTensor> parts;  ///< a single tensor, or one for each expert

  [[nodiscard]] std::uint64_t nbytes() const noexcept;
};

/// Gives the tensors MLX's names. Stacks the experts of Qwen2-MoE, Qwen3-MoE, OLMoE and Mixtral, because that is all that mlx-lm
/// changes in these models. Throws FileError, which names `origin`, for other names that mlx-lm would change. The remedy is then
/// `mlx_lm convert`. Also throws FileError if an expert is missing or differs from the others.
[[nodiscard]] std::vector<SourceTensor> in_mlx_names(const TensorMap& tensors, const ModelFacts& facts, std::string_view origin);

}  // namespace gqmm::io
