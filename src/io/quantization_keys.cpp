#include "io/quantization_keys.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

namespace gqmm::io {
namespace {

using nlohmann::json;

struct QuantizationKey {
  const char* name;
  bool shared_with_others;
};

constexpr QuantizationKey keys[] = {{"quantization", false}, {"quantization_config", true}, {"compression_config", true}};

constexpr const char* parts[] = {
    "", "/text_config", "/language_config", "/llm_config", "/thinker_config", "/thinker_config/text_config"};

/// The name of a key for messages, for example "text_config.quantization" for the JSON pointer "/text_config/quantization".
std::string dotted(std::string_view pointer) {
  std::string name(pointer.substr(1));
  std::replace(name.begin(), name.end(), '/', '.');
  return name;
}

/// A method in the form in which methods are compared: in lower case and with hyphens.
std::string normalised(std::string method) {
  std::transform(method.begin(), method.end(), method.begin(),
                 [](unsigned char c) { return c == '_' ? '-' : static_cast<char>(std::tolower(c)); });
  return method;
}

std::string text_of(const json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? normalised(found->get<std::string>()) : std::string();
}

}  // namespace

std::span<const char* const> language_model_pointers() { return parts; }

std::vector<QuantizationValue> quantization_values(const json& model_config) {
  std::vector<QuantizationValue> values;
  for (const char* part : language_model_pointers()) {
    for (const QuantizationKey& key : keys) {
      const std::string pointer = fmt::format("{}/{}", part, key.name);
      const json::json_pointer where(pointer);
      if (model_config.contains(where) && !model_config.at(where).is_null()) {
        values.push_back({dotted(pointer), &model_config.at(where), key.shared_with_others});
      }
    }
  }
  return values;
}

std::string quantization_method(const json& settings) {
  if (!settings.is_object()) {
    return "";
  }
  if (std::string method = text_of(settings, "quant_method"); !method.empty()) {
    return method;
  }
  const auto inner = settings.find("quantization");
  if (settings.contains("quant_algo") || (inner != settings.end() && inner->is_object() && inner->contains("quant_algo"))) {
    return "modelopt";
  }
  if (settings.contains("config_groups") || text_of(settings, "format").ends_with("-quantized")) {
    return "compressed-tensors";
  }
  for (const char* key : {"load_in_4bit", "load_in_8bit", "_load_in_4bit", "_load_in_8bit"}) {
    const auto found = settings.find(key);
    if (found != settings.end() && *found == json(true)) {
      return "bitsandbytes";
    }
  }
  return text_of(settings, "method");
}

}  // namespace gqmm::io
