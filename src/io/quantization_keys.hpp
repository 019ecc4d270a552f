// The keys of config.json that describe quantization, and the scheme that a value there names.
#pragma once

#include <nlohmann/json.hpp>

#include <span>
#include <string>
#include <vector>

namespace gqmm::io {

/// JSON pointers to the objects of a config.json that can describe the language model. They are the document itself ("") and, for
/// a model of several parts, objects such as "/text_config". Earlier pointers count first.
[[nodiscard]] std::span<const char* const> language_model_pointers();

struct QuantizationValue {
  std::string key;              ///< the key for messages: "text_config.quantization"
  const nlohmann::json* value;  ///< the pointer is never nullptr, and the value is never null
  bool shared_with_others;      ///< true if other libraries use this key too, so that their "quant_method" decides
};

/// The values of "quantization", "quantization_config" and "compression_config" in each of language_model_pointers(). Earlier
/// values count first. Values that are null are left out. The result points into `model_config`, which must outlive it.
[[nodiscard]] std::vector<QuantizationValue> quantization_values(const nlohmann::json& model_config);

/// The "quant_method" of such a value, in lower case and with hyphens. Some tools write other keys in its place, such as
/// "quant_algo" and "load_in_4bit". Empty if the value names no method.
[[nodiscard]] std::string quantization_method(const nlohmann::json& settings);

}  // namespace gqmm::io
