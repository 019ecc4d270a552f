// What `gqmm quantize` makes of each tensor of a float checkpoint, decided before anything is written.
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

/// A glob matches a tensor by its full name or by that of its layer (without ".weight"); `*` matches dots too.
struct PlanOptions {
  QuantizationSettings settings;
  std::vector<std::string> include;        ///< not empty: only tensors that one of them matches
  std::vector<std::string> exclude;        ///< wins over all others
  std::vector<TensorSettings> per_tensor;  ///< the last match counts
  bool lone_file = false;                  ///< a file that is no model
};

/// GLOB=BITS[:GROUP[:MODE]]. Without MODE it is that of `defaults` if this has such bits, and affine otherwise. Throws
/// std::invalid_argument.
[[nodiscard]] TensorSettings parse_tensor_settings(std::string_view text, const QuantizationSettings& defaults);

struct PlannedTensor {
  SourceTensor source;
  std::optional<QuantizationSettings> settings;  ///< nullopt: it stays as it is
  std::string reason;                            ///< why it stays

  [[nodiscard]] std::string layer() const { return layer_of(source.name); }
  /// What is written in its place.
  [[nodiscard]] std::vector<TensorLayout> layouts() const;
  [[nodiscard]] std::uint64_t bytes_after() const;
};

/// Throws FileError, naming `origin`, if nothing is quantized, for a glob that matches nothing, and for settings of one's own
/// that a tensor cannot have.
[[nodiscard]] std::vector<PlannedTensor> make_plan(std::vector<SourceTensor> sources, const ModelFacts& facts,
                                                   const PlanOptions& options, std::string_view origin);

/// The "quantization" object of config.json as mlx-lm writes it: the settings of all layers, and of each that has others.
[[nodiscard]] nlohmann::ordered_json quantization_of(const std::vector<PlannedTensor>& plan,
                                                     const QuantizationSettings& defaults);

}  // namespace gqmm::io
