// The plan of `gqmm quantize`: what becomes of each tensor of a float checkpoint. It is complete before anything is written.
#pragma once

#include "formats/registry.hpp"
#include "io/expert_names.hpp"
#include "io/layer_rules.hpp"
#include "io/safetensors_writer.hpp"

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace gqmm::io {

/// Settings for the tensors that a glob matches.
struct TensorSettings {
  std::string glob;
  QuantizationSettings settings;
};

/// What the options of the command ask for. A glob matches the full name of a tensor or the name of its layer, which has no
/// ".weight". `*` matches dots too.
struct PlanOptions {
  QuantizationSettings settings;
  std::vector<std::string> include;        ///< globs; if there are any, only tensors that match one are quantized
  std::vector<std::string> exclude;        ///< globs; a tensor that matches one is never quantized
  std::vector<TensorSettings> per_tensor;  ///< the last match counts
  bool lone_file = false;                  ///< true for a file that is not part of a model
};

/// Parses GLOB=BITS[:GROUP[:MODE]]. Without MODE, the mode is that of `defaults` if it has a format of these bits, and affine
/// otherwise. Throws std::invalid_argument.
[[nodiscard]] TensorSettings parse_tensor_settings(std::string_view text, const QuantizationSettings& defaults);

struct PlannedTensor {
  SourceTensor source;
  std::optional<QuantizationSettings> settings;  ///< nullopt if the tensor is copied and not quantized
  std::string reason;                            ///< why it is not quantized

  [[nodiscard]] std::string layer() const { return layer_of(source.name); }
  /// The tensors that are written in its place.
  [[nodiscard]] std::vector<TensorLayout> layouts() const;
  [[nodiscard]] std::uint64_t bytes_after() const;
};

/// Makes the plan. Throws FileError, which names `origin`, if nothing is quantized and if a glob matches nothing. Also throws it
/// if a tensor cannot have the settings that --per-tensor asks for.
[[nodiscard]] std::vector<PlannedTensor> plan_quantization(std::vector<SourceTensor> sources, const ModelFacts& facts,
                                                           const PlanOptions& options, std::string_view origin);

/// The "quantization" object of config.json in mlx-lm's form. It has the settings of all layers, and an object for each layer
/// with other settings.
[[nodiscard]] nlohmann::ordered_json quantization_of(const std::vector<PlannedTensor>& plan,
                                                     const QuantizationSettings& defaults);

}  // namespace gqmm::io
