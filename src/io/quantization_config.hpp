// Which layers of a checkpoint are quantized and how: the "quantization" object of MLX's config.json.
//
//     "quantization": {
//       "group_size": 32, "bits": 4, "mode": "mxfp4",                      what holds for every layer, except those
//       "model.layers.0.mlp.gate": {"group_size": 64, "bits": 8},          with settings of their own
//       "lm_head": false                                                   or that are not quantized
//     }
#pragma once

#include "formats/registry.hpp"

#include <map>
#include <optional>
#include <string>
#include <string_view>

namespace gqmm::io {

class QuantizationConfig {
 public:
  explicit QuantizationConfig(QuantizationSettings defaults) : defaults_(defaults) {}

  /// Settings of the layer; nullopt if it is not quantized.
  [[nodiscard]] std::optional<QuantizationSettings> settings_of(std::string_view layer) const;
  /// Settings of the layers that are not named.
  [[nodiscard]] const QuantizationSettings& defaults() const noexcept { return defaults_; }

  void set(std::string layer, std::optional<QuantizationSettings> settings);

 private:
  QuantizationSettings defaults_;
  std::map<std::string, std::optional<QuantizationSettings>, std::less<>> layers_;
};

/// The "quantization" object itself. What a layer's own object leaves out takes MLX's defaults (mode affine), not the values
/// above it: an 8-bit affine router inside an mxfp4 model says only {"group_size": 64, "bits": 8}. Throws FileError for anything
/// that is not valid JSON, not of the form above, or not in the table of formats. Other keys are ignored unless they hold an
/// object or a boolean.
[[nodiscard]] QuantizationConfig parse_quantization(std::string_view text, std::string_view origin);

/// The same from the text of a whole config.json: its "quantization" or, failing that, "quantization_config" without a
/// "quant_method" (which marks another library's scheme). nullopt if it has neither.
[[nodiscard]] std::optional<QuantizationConfig> parse_model_config(std::string_view text, std::string_view origin);

/// The JSON text that parse_quantization reads: the settings of every layer.
[[nodiscard]] std::string quantization_json(const QuantizationSettings& settings);

}  // namespace gqmm::io
