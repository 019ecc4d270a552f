// Recognises checkpoints whose weights are quantized in another scheme than MLX's, for example GPTQ, AWQ, fp8 or that of gpt-oss.
#pragma once

#include "io/safetensors.hpp"

#include <nlohmann/json.hpp>

#include <optional>
#include <string>
#include <string_view>

namespace gqmm::io {

/// How the weights of a checkpoint are quantized.
struct Scheme {
  std::string name;      ///< the name for messages, for example "GPTQ"
  std::string evidence;  ///< the tensor or the key that shows the scheme, fit to print
  std::string remedy;    ///< what the user should do instead, without a full stop
};

/// The scheme of tensors that are neither float nor in MLX's format. Returns nullopt if there are no such tensors. `config` is
/// the document of config.json, or null. It may name a scheme, under "quant_method" or a similar key. The name counts only if a
/// tensor holds packed values that are not in MLX's format, because dequantized checkpoints often keep the key. If there are no
/// tensors at all, the name alone counts.
[[nodiscard]] std::optional<Scheme> find_foreign_scheme(const nlohmann::json* config, const TensorMap& tensors);

/// The scheme "MLX" if a tensor is quantized in MLX's format: NAME.weight of uint32 with NAME.scales.
[[nodiscard]] std::optional<Scheme> find_mlx_scheme(const TensorMap& tensors);

/// Describes the scheme without naming the file: `holds weights quantized by GPTQ (tensor "a.qweight", …); convert it with …`.
[[nodiscard]] std::string describe(const Scheme& scheme);

}  // namespace gqmm::io
