// Where config.json speaks of quantization, and whose scheme a value there names.
#pragma once

#include <nlohmann/json.hpp>

#include <span>
#include <string>
#include <vector>

namespace gqmm::io {

/// JSON pointers to the objects of a config.json that can describe the language model: the document itself ("") and, in a model
/// of several parts, an object of its own such as "/text_config". In the order in which they count.
[[nodiscard]] std::span<const char* const> language_model_pointers();

struct QuantizationValue {
  std::string key;              ///< for people: "text_config.quantization"
  const nlohmann::json* value;  ///< never null itself
  bool shared_with_others;      ///< other libraries use this key as well, so that a "quant_method" of theirs decides
};

/// The values of "quantization", "quantization_config" and "compression_config" in the document of a config.json, in the order
/// in which they count, from each of language_model_pointers(). null is left out. The values are those of `model_config`, which
/// must outlive them.
[[nodiscard]] std::vector<QuantizationValue> quantization_values(const nlohmann::json& model_config);

/// The "quant_method" of such a value, or what stands for it in other tools' files ("quant_algo", "load_in_4bit"), in lower case
/// with hyphens; empty if it names none.
[[nodiscard]] std::string quantization_method(const nlohmann::json& settings);

}  // namespace gqmm::io
