// A checkpoint: one safetensors file, or a folder with a model in it.
#pragma once

#include "io/model_files.hpp"
#include "io/quantization_config.hpp"
#include "io/safetensors.hpp"

#include <gqmm/array.hpp>

#include <nlohmann/json.hpp>

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace gqmm::io {

struct Checkpoint {
  std::filesystem::path path;
  std::vector<std::filesystem::path> files;  ///< the safetensors files, each mapped once
  TensorMap tensors;
  Metadata metadata;      ///< of all files; of a key that several have, the first
  nlohmann::json config;  ///< the document of config.json; null without one
  std::optional<QuantizationConfig> quantization;
  std::string foreign_settings;  ///< what another tool keeps under that key (FoundQuantization::foreign); else empty
};

/// Writes "gqmm: " and the sentence to the standard error.
void print_notice(std::string_view sentence);

/// What to do about a path that does not exist but looks like a model on the Hugging Face hub, "OWNER/NAME" or an address there;
/// empty for every other path.
[[nodiscard]] std::string hub_remedy(const std::filesystem::path& path);

/// One safetensors file, or a folder with the files that open_model_folder finds (model_files.hpp). The settings come from the
/// safetensors metadata "quantization" (as `gqmm quantize` writes it) or from config.json in the same folder. `notify` is told
/// what was not as it should be but could be read. Throws FileError, which says what to do about a file of another kind and about
/// the name of a model on the Hugging Face hub.
[[nodiscard]] Checkpoint open_checkpoint(const std::filesystem::path& path, const Notify& notify = print_notice);

/// NAME.weight with NAME.scales and, for affine, NAME.biases; nvfp4 may have NAME.global_scale. w is uint32 (…, N, K·bits/32);
/// scales and biases (…, N, K/group_size); global_scale is float32, of one value or one per matrix.
struct QuantizedTensor {
  std::string name;  ///< without ".weight"
  const Format* format = nullptr;
  int group_size = 0;
  array w;
  array scales;
  std::optional<array> biases;
  std::optional<array> global_scale;
  std::string inferred;      ///< settings that the shapes gave because config.json does not state them or is wrong: "bits, mode"
  std::int64_t experts = 1;  ///< product of the leading dimensions
  std::int64_t N = 0;
  std::int64_t K = 0;

  /// Has leading dimensions: the weights of several experts.
  [[nodiscard]] bool is_expert_tensor() const noexcept { return w.rank() > 2; }
  /// Of all its arrays together.
  [[nodiscard]] std::int64_t nbytes() const noexcept;
};

/// Settings for a checkpoint that brings none.
struct AssumedSettings {
  std::optional<Mode> mode;
  std::optional<int> bits;
  std::optional<int> group_size;
};

/// Every quantized tensor, by name. A tensor's own settings must fit its shapes. The defaults of the checkpoint need not: where
/// they contradict the shapes, as in a model of mixed bits whose config.json lacks the exceptions or has them under another
/// prefix, the settings are inferred. The group size holds, so that the number of scales gives K and the number of words the
/// bits. Without settings in the checkpoint, those are taken that `assumed` and the shapes leave. Throws FileError where settings
/// and shapes contradict each other or several settings fit, and for a checkpoint in another scheme (foreign_scheme.hpp) without
/// any tensor in MLX's. `notify` is told of weights that lack their scales, and if shapes decide although the checkpoint has
/// settings, but of another tool's.
[[nodiscard]] std::vector<QuantizedTensor> quantized_tensors(const Checkpoint& checkpoint, const AssumedSettings& assumed = {},
                                                             const Notify& notify = print_notice);

}  // namespace gqmm::io
