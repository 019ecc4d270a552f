// A checkpoint: one safetensors file, or a folder with a model in it.
#pragma once

#include "io/model_files.hpp"
#include "io/quantization_config.hpp"
#include "io/safetensors.hpp"

#include <gqmm/array.hpp>
#include <gqmm/quantized_weights.hpp>

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
  Metadata metadata;      ///< of all files; if several files have a key, the value of the first file
  nlohmann::json config;  ///< the document of config.json; null if there is no such file
  std::optional<QuantizationConfig> quantization;
  std::string foreign_settings;  ///< what another tool keeps under MLX's key (FoundQuantization::foreign), or empty
};

/// Writes "gqmm: " and the sentence to the standard error stream.
void print_notice(std::string_view sentence);

/// The remedy for a path that does not exist but looks like a model on the Hugging Face hub: "OWNER/NAME" or an address there. It
/// is empty for every other path.
[[nodiscard]] std::string hub_remedy(const std::filesystem::path& path);

/// Opens one safetensors file, or a folder with the files that open_model_folder finds (model_files.hpp). The settings come from
/// the safetensors metadata "quantization", which `gqmm quantize` writes, or from config.json in the same folder. `notify` is
/// called when something is wrong but can be read all the same. Throws FileError. Its message has the remedy for a file of
/// another kind and for the name of a model on the Hugging Face hub.
[[nodiscard]] Checkpoint open_checkpoint(const std::filesystem::path& path, const Notify& notify = print_notice);

/// A quantized tensor: NAME.weight with NAME.scales, in mode affine with NAME.biases, and in nvfp4 possibly with
/// NAME.global_scale. w is uint32 of shape (…, N, K·bits/32). Scales and biases have shape (…, N, K/group_size). global_scale is
/// float32 and has a single value or one value for each matrix.
struct QuantizedTensor {
  std::string name;          ///< without ".weight"
  QuantizedWeights weights;  ///< every setting has a value; transpose is true
  std::string inferred;      ///< the settings that were inferred from the shapes, for example "bits, mode", or empty
  std::int64_t experts = 1;  ///< the product of the leading dimensions
  std::int64_t N = 0;
  std::int64_t K = 0;

  [[nodiscard]] const Format& format() const;
  /// True if w has leading dimensions, so that it holds the weights of several experts.
  [[nodiscard]] bool is_expert_tensor() const noexcept { return weights.w.rank() > 2; }
  /// The bytes of all its arrays together.
  [[nodiscard]] std::int64_t nbytes() const noexcept;
};

/// Settings for a checkpoint that has none of its own.
struct AssumedSettings {
  std::optional<Mode> mode;
  std::optional<int> bits;
  std::optional<int> group_size;
};

/// Every quantized tensor of the checkpoint, sorted by name.
///
/// The settings of a tensor are found as follows. Settings for this very tensor must fit its shapes. The defaults of the
/// checkpoint need not fit: a model of mixed bits may lack the exceptions in config.json, or have them under another prefix. Then
/// the settings are inferred. The group size of the defaults holds, so the number of scales gives K, and the number of words
/// gives the bits. If the checkpoint has no settings, the only settings that `assumed` and the shapes allow are used.
///
/// Throws FileError if settings and shapes contradict each other, or if several settings fit. It also throws FileError for a
/// checkpoint in another scheme (foreign_scheme.hpp) that has no tensor in MLX's format. `notify` is called for weights that lack
/// their scales, and if the shapes decide because the checkpoint's settings are those of another tool.
[[nodiscard]] std::vector<QuantizedTensor> quantized_tensors(const Checkpoint& checkpoint, const AssumedSettings& assumed = {},
                                                             const Notify& notify = print_notice);

}  // namespace gqmm::io
