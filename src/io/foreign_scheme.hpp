// Recognises checkpoints whose weights are stored in another way than MLX stores them: GPTQ, AWQ, fp8, gpt-oss and others.
#pragma once

#include "io/safetensors.hpp"

#include <nlohmann/json.hpp>

#include <optional>
#include <string>
#include <string_view>

namespace gqmm::io {

/// How the weights of a checkpoint are quantized.
struct Scheme {
  std::string name;      ///< for people, for example "GPTQ"
  std::string evidence;  ///< the tensor or the key that shows it, fit to print
  std::string remedy;    ///< what to do instead, without a full stop
};

/// The scheme of tensors that are neither float nor in MLX's format; nullopt if there is none. `config` is the document of
/// config.json, or null. The scheme that it names ("quant_method" and its relatives) counts only when a tensor holds packed
/// values that MLX's format does not explain: dequantized checkpoints often keep the key. Without any tensors it counts alone.
[[nodiscard]] std::optional<Scheme> find_foreign_scheme(const nlohmann::json* config, const TensorMap& tensors);

/// The scheme "MLX" if a tensor is quantized in MLX's format: NAME.weight of uint32 with NAME.scales.
[[nodiscard]] std::optional<Scheme> find_mlx_scheme(const TensorMap& tensors);

/// One sentence, without the file: `holds GPTQ weights (tensor "a.qweight"); convert it with …`.
[[nodiscard]] std::string describe(const Scheme& scheme);

}  // namespace gqmm::io
