// The tensors of a checkpoint under MLX's names. Transformers keeps one tensor per expert, or fuses two layers into one; mlx-lm
// changes that when it loads a model ("sanitize"), which has to happen before weights are quantized.
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

/// One tensor under MLX's name: as it lies in the file, or experts that follow one another.
struct SourceTensor {
  std::string name;
  Shape shape;
  std::string type;
  std::vector<NamedTensor> parts;  ///< one, or one per expert

  [[nodiscard]] std::uint64_t nbytes() const noexcept;
};

/// Stacks the experts of the models for which mlx-lm does just that (Qwen2-MoE, Qwen3-MoE, OLMoE, Mixtral). Throws FileError,
/// naming `origin`, for other names that mlx-lm would change, with `mlx_lm convert` as the remedy, and for experts of which one
/// is missing or differs from the others.
[[nodiscard]] std::vector<SourceTensor> in_mlx_names(const TensorMap& tensors, const ModelFacts& facts, std::string_view origin);

}  // namespace gqmm::io
