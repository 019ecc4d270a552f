#include "io/quantization_config.hpp"

#include "io/error.hpp"
#include "io/json.hpp"

#include <fmt/format.h>

#include <limits>
#include <utility>

namespace gqmm::io {
namespace {

using nlohmann::json;

std::optional<int> integer(const json& object, const char* key, std::string_view where) {
  const auto found = object.find(key);
  if (found == object.end() || found->is_null()) {
    return std::nullopt;
  }
  if (!found->is_number_unsigned() || found->get<std::uint64_t>() > std::numeric_limits<int>::max()) {
    throw FileError(where, fmt::format("{} is {}, not a positive integer", key, printable(found->dump())));
  }
  return found->get<int>();
}

QuantizationSettings settings_from(const json& object, std::string_view where) {
  Mode mode = Mode::affine;
  if (const auto found = object.find("mode"); found != object.end() && !found->is_null()) {
    if (!found->is_string()) {
      throw FileError(where, fmt::format("mode is {}, not a string", printable(found->dump())));
    }
    mode = mode_from_name(printable(found->get_ref<const std::string&>()), where);
  }
  const std::optional<int> bits = integer(object, "bits", where);
  const std::optional<int> group_size = integer(object, "group_size", where);
  return resolve_settings(where, mode, bits ? &*bits : nullptr, group_size ? &*group_size : nullptr);
}

QuantizationConfig config_from(const json& object, std::string_view origin) {
  if (!object.is_object()) {
    throw FileError(origin, fmt::format("quantization is {}, not a JSON object", printable(object.dump())));
  }
  const auto settings = [origin](const json& value, std::string_view layer) {
    const std::string where = printable(origin) + (layer.empty() ? "" : fmt::format(", layer {}", in_quotes(layer)));
    try {
      return settings_from(value, where);
    } catch (const std::invalid_argument& error) {  // from the table of formats, with the place in brackets already
      throw FileError(error.what());
    }
  };
  QuantizationConfig config(settings(object, ""));
  for (const auto& [key, value] : object.items()) {
    if (value.is_object()) {
      config.set(key, settings(value, key));
    } else if (value.is_boolean()) {
      config.set(key, value.get<bool>() ? std::optional(config.defaults()) : std::nullopt);
    }
  }
  return config;
}

}  // namespace

std::optional<QuantizationSettings> QuantizationConfig::settings_of(std::string_view layer) const {
  const auto found = layers_.find(layer);
  return found == layers_.end() ? defaults_ : found->second;
}

void QuantizationConfig::set(std::string layer, std::optional<QuantizationSettings> settings) {
  layers_.insert_or_assign(std::move(layer), settings);
}

QuantizationConfig parse_quantization(std::string_view text, std::string_view origin) {
  return config_from(parse_json(text, origin), origin);
}

std::optional<QuantizationConfig> parse_model_config(std::string_view text, std::string_view origin) {
  const json config = parse_json(text, origin);
  if (!config.is_object()) {
    throw FileError(origin, fmt::format("is {}, not a JSON object", printable(config.dump())));
  }
  auto found = config.find("quantization");
  if (found == config.end()) {
    found = config.find("quantization_config");
    if (found == config.end() || (found->is_object() && found->contains("quant_method"))) {
      return std::nullopt;
    }
  }
  return found->is_null() ? std::nullopt : std::optional(config_from(*found, origin));
}

std::string quantization_json(const QuantizationSettings& settings) {
  return json{
      {"group_size", settings.group_size}, {"bits", settings.format->bits}, {"mode", std::string(name_of(settings.format->mode))}}
      .dump();
}

}  // namespace gqmm::io
