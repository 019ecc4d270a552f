// A checkpoint: one safetensors file, or a folder with a model in it.
#pragma once

#include "io/quantization_config.hpp"
#include "io/safetensors.hpp"

#include <gqmm/array.hpp>

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace gqmm::io {

struct Checkpoint {
  std::filesystem::path path;
  std::vector<std::filesystem::path> files;  ///< the safetensors files, each mapped once
  TensorMap tensors;
  Metadata metadata;  ///< of all files; of a key that several have, the first
  std::optional<QuantizationConfig> quantization;
};

/// A folder holds model.safetensors.index.json with the shards that it names, or model.safetensors. The settings come from the
/// safetensors metadata "quantization" (as `gqmm quantize` writes it) or from config.json in the same folder. Throws FileError.
[[nodiscard]] Checkpoint open_checkpoint(const std::filesystem::path& path);

/// The file of each tensor, from the text of a model.safetensors.index.json. Throws FileError unless every file is named as a
/// plain name in the same folder.
[[nodiscard]] std::map<std::string, std::string, std::less<>> parse_weight_map(std::string_view text, std::string_view origin);

/// NAME.weight with NAME.scales and, for affine, NAME.biases. w is uint32 (…, N, K·bits/32); scales and biases (…, N,
/// K/group_size).
struct QuantizedTensor {
  std::string name;  ///< without ".weight"
  const Format* format = nullptr;
  int group_size = 0;
  array w;
  array scales;
  std::optional<array> biases;
  std::int64_t experts = 1;  ///< product of the leading dimensions
  std::int64_t N = 0;
  std::int64_t K = 0;

  /// Has leading dimensions: the weights of several experts.
  [[nodiscard]] bool is_expert_tensor() const noexcept { return w.rank() > 2; }
  /// Of w, scales and biases together.
  [[nodiscard]] std::int64_t nbytes() const noexcept;
};

/// Settings for a checkpoint that brings none.
struct AssumedSettings {
  std::optional<Mode> mode;
  std::optional<int> bits;
  std::optional<int> group_size;
};

/// Every quantized tensor, by name. Without settings in the checkpoint, those are taken that `assumed` and the shapes leave.
/// Throws FileError where settings and shapes contradict each other or several settings fit.
[[nodiscard]] std::vector<QuantizedTensor> quantized_tensors(const Checkpoint& checkpoint, const AssumedSettings& assumed = {});

}  // namespace gqmm::io
