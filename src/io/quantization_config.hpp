// Which layers of a checkpoint are quantized and how: the "quantization" object of MLX's config.json.
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

class QuantizationConfig {
 public:
  explicit QuantizationConfig(std::optional<QuantizationSettings> defaults) : defaults_(defaults) {}

  /// Settings of the layers that are not named; nullopt if the object says nothing about them.
  [[nodiscard]] const std::optional<QuantizationSettings>& defaults() const noexcept { return defaults_; }

  /// What the object says about one layer.
  struct Layer {
    std::optional<QuantizationSettings> settings;  ///< nullopt: the layer is not quantized
    std::string problem;                           ///< why its value cannot be understood, fit to print; else empty
  };
  void set(std::string name, Layer layer);

  /// The settings of a layer by its own name. Throws FileError, naming the key, if they cannot be understood.
  [[nodiscard]] std::optional<std::optional<QuantizationSettings>> settings_named(std::string_view layer) const;
  /// settings_named or, failing that, the defaults; nullopt for a layer that is not quantized, or that has neither.
  [[nodiscard]] std::optional<QuantizationSettings> settings_of(std::string_view layer) const;
  /// Settings under a name that differs from the layer's by a prefix: "model.layers.0.mlp.gate" for
  /// "language_model.model.layers.0.mlp.gate" and the other way round. The longest common part first.
  [[nodiscard]] std::vector<QuantizationSettings> settings_under_other_prefixes(std::string_view layer) const;

 private:
  std::optional<QuantizationSettings> defaults_;
  std::map<std::string, Layer, std::less<>> layers_;
  std::map<std::string, std::vector<std::string>, std::less<>> names_by_last_part_;
};

/// The "quantization" object itself. What a layer's own object leaves out takes MLX's defaults (mode affine), not the values
/// above it: an 8-bit affine router inside an mxfp4 model says only {"group_size": 64, "bits": 8}. Throws FileError for anything
/// that is not valid JSON, not of the form above, or not in the table of formats; a layer's value that cannot be understood is
/// an error when that layer is asked for.
[[nodiscard]] QuantizationConfig parse_quantization(std::string_view text, std::string_view origin);

/// What a file says about quantization.
struct FoundQuantization {
  std::optional<QuantizationConfig> config;  ///< nullopt: no settings of MLX's
  std::string foreign;  ///< the first value that is not MLX's though its key says so, with the key, fit to print: `… is "int4"`
};

/// The document of a config.json. Throws FileError unless it is a JSON object.
[[nodiscard]] nlohmann::json parse_model_config(std::string_view text, std::string_view origin);

/// The settings in a config.json: "quantization" or "quantization_config", or those of "text_config" and the like. Values that
/// are not MLX's (another library's "quant_method", a string, a list) are passed over. Throws FileError for MLX's settings that
/// cannot be understood.
[[nodiscard]] FoundQuantization find_quantization(const nlohmann::json& model_config, std::string_view origin);

/// The settings in a safetensors file's metadata "quantization". Throws FileError for MLX's settings that cannot be understood.
[[nodiscard]] FoundQuantization find_quantization_in_metadata(std::string_view text, std::string_view origin);

/// The JSON text that parse_quantization reads: the settings of every layer.
[[nodiscard]] std::string quantization_json(const QuantizationSettings& settings);

}  // namespace gqmm::io
