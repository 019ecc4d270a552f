// Where config.json speaks of quantization, and whose scheme a value there names.
#pragma once

#include <nlohmann/json.hpp>

#include <string>
#include <vector>

namespace gqmm::io {

struct QuantizationValue {
  std::string key;              ///< for people: "text_config.quantization"
  const nlohmann::json* value;  ///< never null itself
  bool shared_with_others;      ///< other libraries use this key as well, so that a "quant_method" of theirs decides
};

/// The values of "quantization", "quantization_config" and "compression_config" in the document of a config.json, in the order
/// in which they count. A model of several parts keeps those of its language model in an object of its own ("text_config").
/// null and values in something that is no object are left out. The values are those of `model_config`, which must outlive them.
[[nodiscard]] std::vector<QuantizationValue> quantization_values(const nlohmann::json& model_config);

/// The "quant_method" of such a value, or what stands for it in other tools' files ("quant_algo", "load_in_4bit"), in lower case
/// with hyphens; empty if it names none.
[[nodiscard]] std::string quantization_method(const nlohmann::json& settings);

}  // namespace gqmm::io
