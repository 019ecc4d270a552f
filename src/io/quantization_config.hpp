// The "quantization" object of MLX's config.json, which says which layers of a checkpoint are quantized and how.
//
//     "quantization": {
//       "group_size": 32, "bits": 4, "mode": "mxfp4",                      what holds for every layer, except those
//       "model.layers.0.mlp.gate": {"group_size": 64, "bits": 8},          with settings of their own
//       "lm_head": false                                                   or that are not quantized
//     }
#pragma once

#include "formats/registry.hpp"

#include <nlohmann/json.hpp>

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace gqmm::io {

/// The settings of the layers of a checkpoint.
class QuantizationConfig {
 public:
  explicit QuantizationConfig(std::optional<QuantizationSettings> defaults) : defaults_(defaults) {}

  /// The settings of the layers that are not named. nullopt if the object does not say.
  [[nodiscard]] const std::optional<QuantizationSettings>& defaults() const noexcept { return defaults_; }

  /// What the object says about one layer.
  struct LayerEntry {
    std::optional<QuantizationSettings> settings;  ///< nullopt if the layer is not quantized
    std::string problem;                           ///< why the value cannot be understood, fit to print; otherwise empty
  };
  void set(std::string name, LayerEntry layer);

  /// The settings of a layer under its own name. The outer nullopt means that the object does not name the layer, and the inner
  /// one that the layer is not quantized. Throws FileError, which names the key, if the settings cannot be understood.
  [[nodiscard]] std::optional<std::optional<QuantizationSettings>> settings_named(std::string_view layer) const;
  /// The result of settings_named, or the defaults if the object does not name the layer. nullopt if the layer is not quantized,
  /// and if there are no defaults.
  [[nodiscard]] std::optional<QuantizationSettings> settings_of(std::string_view layer) const;
  /// The settings under names that differ from the layer's name only in the prefix. For example, they are found under
  /// "model.layers.0.mlp.gate" for "language_model.model.layers.0.mlp.gate", and the other way round. The prefixes "model." and
  /// "language_model." may also be swapped. The settings with the longest common part come first. Throws FileError, which names
  /// the key, if such settings cannot be understood.
  [[nodiscard]] std::vector<QuantizationSettings> settings_under_other_prefixes(std::string_view layer) const;

 private:
  std::optional<QuantizationSettings> defaults_;
  std::map<std::string, LayerEntry, std::less<>> layers_;
  std::map<std::string, std::vector<std::string>, std::less<>> names_by_last_part_;
};

/// Parses the text of a "quantization" object. A setting that a layer's own object leaves out has MLX's default (mode affine),
/// not the value of the outer object. So an 8-bit affine router inside an mxfp4 model has only {"group_size": 64, "bits": 8}.
/// Throws FileError if the text is not valid JSON, does not have the form above, or names a format that does not exist. A layer's
/// value that cannot be understood is an error only when that layer is asked for.
[[nodiscard]] QuantizationConfig parse_quantization(std::string_view text, std::string_view origin);

/// What config.json or the metadata of a file say about quantization.
struct FoundQuantization {
  std::optional<QuantizationConfig> config;  ///< nullopt if there are no settings in MLX's form
  std::string foreign;  ///< the first value under MLX's keys that is not in MLX's form, with its key: `… is "int4"`; fit to print
};

/// Parses the text of a config.json. Throws FileError unless it is a JSON object.
[[nodiscard]] nlohmann::json parse_model_config(std::string_view text, std::string_view origin);

/// The settings in a config.json. They are under "quantization" or "quantization_config", or inside "text_config" and similar
/// keys. A value that is not in MLX's form, such as another library's "quant_method", a string or a list, is ignored. Throws
/// FileError for settings in MLX's form that cannot be understood.
[[nodiscard]] FoundQuantization find_quantization(const nlohmann::json& model_config, std::string_view origin);

/// The settings in the metadata "quantization" of a safetensors file. Throws FileError for settings in MLX's form that cannot be
/// understood.
[[nodiscard]] FoundQuantization find_quantization_in_metadata(std::string_view text, std::string_view origin);

/// The JSON text for parse_quantization that gives every layer these settings.
[[nodiscard]] std::string quantization_json(const QuantizationSettings& settings);

}  // namespace gqmm::io
