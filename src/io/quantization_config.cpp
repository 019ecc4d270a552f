#include "io/quantization_config.hpp"

#include "io/error.hpp"
#include "io/json.hpp"
#include "io/quantization_keys.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <functional>
#include <limits>
#include <utility>

namespace gqmm::io {
namespace {

using nlohmann::json;

/// These keys, and all keys below them, must not appear twice. Otherwise it would be unclear how the weights are to be read.
constexpr std::string_view unique_keys[] = {"quantization", "quantization_config"};
constexpr const char* setting_keys[] = {"bits", "group_size", "mode"};

/// True for a key of "quantization" that names a layer. The keys of settings never do.
bool is_layer_name(std::string_view key) {
  return std::find(std::begin(setting_keys), std::end(setting_keys), key) == std::end(setting_keys);
}

/// Reads a positive whole number. It may have the form 4.0, which some tools write.
std::optional<int> integer(const json& object, const char* key, std::string_view where) {
  const auto found = object.find(key);
  if (found == object.end() || found->is_null()) {
    return std::nullopt;
  }
  const double value = found->is_number() ? found->get<double>() : 0;
  const bool is_positive_integer = value >= 1 && value <= std::numeric_limits<int>::max() && value == std::floor(value);
  if (!is_positive_integer) {
    throw FileError(where, fmt::format("{} is {}, not a positive integer", key, printable(found->dump())));
  }
  return static_cast<int>(value);
}

/// The letters of a key in lower case. They are "groupsize" for "group_size", "groupSize" and "group-size".
std::string letters_of(std::string_view key) {
  std::string letters;
  for (const char c : key) {
    if (std::isalpha(static_cast<unsigned char>(c)) != 0) {
      letters += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    }
  }
  return letters;
}

/// Throws FileError if a setting is missing and another key looks like a wrong spelling of it, because MLX would not read that
/// key.
void check_spelling(const json& object, std::string_view where) {
  struct Spelling {
    std::string_view letters;
    const char* key;
  };
  constexpr Spelling spellings[] = {
      {"bits", "bits"}, {"nbits", "bits"}, {"wbits", "bits"}, {"groupsize", "group_size"}, {"qgroupsize", "group_size"},
      {"mode", "mode"}};
  for (const auto& [key, value] : object.items()) {
    const std::string letters = letters_of(key);
    for (const Spelling& spelling : spellings) {
      if (letters == spelling.letters && !object.contains(spelling.key) && !value.is_object()) {
        throw FileError(where, fmt::format("{} is no key that MLX reads; write {}", in_quotes(key), in_quotes(spelling.key)));
      }
    }
  }
}

QuantizationSettings settings_from(const json& object, std::string_view where) {
  check_spelling(object, where);
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

bool has_settings(const json& value) {
  return value.is_object() &&
         std::any_of(std::begin(setting_keys), std::end(setting_keys), [&](const char* key) { return value.contains(key); });
}

QuantizationSettings settings_at(const json& value, const std::string& where) {
  try {
    return settings_from(value, where);
  } catch (const std::invalid_argument& error) {  // resolve_settings has put `where` in brackets already
    throw FileError(error.what());
  }
}

QuantizationConfig::LayerEntry layer_from(const json& value, std::string_view origin, const std::string& name) {
  const std::string where = fmt::format("{}, layer {}", printable(origin), in_quotes(name));
  try {
    if (value.is_null() || value == json(false)) {  // both are false in Python
      return {};
    }
    if (value.is_object() && (value.empty() || has_settings(value))) {
      return {.settings = settings_at(value, where), .problem = ""};
    }
    throw FileError(
        where, fmt::format("is {}, neither true, false nor an object with bits, group_size or mode", printable(value.dump())));
  } catch (const FileError& error) {
    return {.settings = std::nullopt, .problem = error.what()};
  }
}

QuantizationConfig config_from(const json& object, std::string_view origin, std::optional<QuantizationSettings> defaults) {
  QuantizationConfig config(defaults);
  for (const auto& [key, value] : object.items()) {
    // The value true means that the layer is quantized as the others are. That is so without an entry too.
    if (is_layer_name(key) && value != json(true)) {
      config.set(key, layer_from(value, origin, key));
    }
  }
  return config;
}

/// True if the object holds settings of layers and no defaults.
bool names_layers_only(const json& value) {
  return value.is_object() && quantization_method(value).empty() && std::any_of(value.begin(), value.end(), has_settings) &&
         std::all_of(value.begin(), value.end(), [](const json& layer) { return layer.is_boolean() || has_settings(layer); });
}

/// Reads the value of a key such as "quantization" if it is in MLX's form. Returns nullopt if it is another tool's. `shared_key`
/// says that other libraries use this key too. Then their "quant_method" decides.
std::optional<QuantizationConfig> mlx_config(const json& value, const std::string& where, bool shared_key) {
  const std::string method = quantization_method(value);
  if (has_settings(value) &&
      (method.empty() || method == "mlx" || (!shared_key && value.contains("group_size") && value.contains("bits")))) {
    return config_from(value, where, settings_at(value, where));
  }
  if (names_layers_only(value)) {
    return config_from(value, where, std::nullopt);
  }
  // The method may be the name of one of MLX's modes. "affine" is excluded, because other tools use this word too.
  if (const auto mode = find_mode(method); mode && *mode != Mode::affine) {
    return QuantizationConfig(settings_at(json{{"mode", method}}, where));
  }
  return std::nullopt;
}

bool has_suffix_part(std::string_view text, std::string_view suffix) {
  return text.size() > suffix.size() && text.ends_with(suffix) && text[text.size() - suffix.size() - 1] == '.';
}

/// The name without prefixes that only some tools put before the layers of a language model.
std::string_view without_wrappers(std::string_view name) {
  constexpr std::string_view wrappers[] = {"model.", "language_model.", "text_model."};
  const auto* found = std::begin(wrappers);
  while (found != std::end(wrappers)) {
    found = std::find_if(std::begin(wrappers), std::end(wrappers), [&](std::string_view part) { return name.starts_with(part); });
    name.remove_prefix(found == std::end(wrappers) ? 0 : found->size());
  }
  return name;
}

std::string_view last_part(std::string_view name) { return name.substr(name.rfind('.') + 1); }

}  // namespace

void QuantizationConfig::set(std::string name, LayerEntry layer) {
  names_by_last_part_[std::string(last_part(name))].push_back(name);
  layers_.insert_or_assign(std::move(name), std::move(layer));
}

std::optional<std::optional<QuantizationSettings>> QuantizationConfig::settings_named(std::string_view layer) const {
  const auto found = layers_.find(layer);
  if (found == layers_.end()) {
    return std::nullopt;
  }
  if (!found->second.problem.empty()) {
    throw FileError(found->second.problem);
  }
  return found->second.settings;
}

std::optional<QuantizationSettings> QuantizationConfig::settings_of(std::string_view layer) const {
  return settings_named(layer).value_or(defaults_);
}

std::vector<QuantizationSettings> QuantizationConfig::settings_under_other_prefixes(std::string_view layer) const {
  const auto names = names_by_last_part_.find(last_part(layer));
  if (names == names_by_last_part_.end()) {
    return {};
  }
  std::multimap<std::size_t, QuantizationSettings, std::greater<>> by_length;  // the key is the length of the common part
  for (const std::string& name : names->second) {
    const LayerEntry& other = layers_.find(name)->second;
    const bool differs_by_prefix = has_suffix_part(name, layer) || has_suffix_part(layer, name) ||
                                   (name != layer && without_wrappers(name) == without_wrappers(layer));
    if (differs_by_prefix && !other.problem.empty()) {
      throw FileError(other.problem);
    }
    if (differs_by_prefix && other.settings) {
      by_length.emplace(std::min(name.size(), layer.size()), *other.settings);
    }
  }
  std::vector<QuantizationSettings> settings;
  for (const auto& [length, each] : by_length) {
    settings.push_back(each);
  }
  return settings;
}

QuantizationConfig parse_quantization(std::string_view text, std::string_view origin) {
  const json object = parse_json(text, origin);
  if (!object.is_object()) {
    throw FileError(origin, fmt::format("quantization is {}, not a JSON object", printable(object.dump())));
  }
  return config_from(object, origin, settings_at(object, printable(origin)));
}

json parse_model_config(std::string_view text, std::string_view origin) {
  json config = parse_python_json(text, origin, unique_keys);
  if (!config.is_object()) {
    throw FileError(origin, fmt::format("is {}, not a JSON object", printable(config.dump())));
  }
  return config;
}

FoundQuantization find_quantization(const json& model_config, std::string_view origin) {
  FoundQuantization found;
  for (const auto& [key, value, shared_with_others] : quantization_values(model_config)) {
    found.config = mlx_config(*value, fmt::format("{}, {}", printable(origin), key), shared_with_others);
    if (found.config) {
      return found;
    }
    if (found.foreign.empty() && *value != json::object()) {
      found.foreign = fmt::format("{} in {} is {}", key, printable(origin), printable(value->dump()));
    }
  }
  return found;
}

FoundQuantization find_quantization_in_metadata(std::string_view text, std::string_view origin) {
  FoundQuantization found;
  found.foreign = fmt::format("metadata \"quantization\" of {} is {}", printable(origin), printable(text));
  const std::string where = fmt::format("{}, metadata \"quantization\"", printable(origin));
  json value;
  try {
    value = parse_json(text, where);
  } catch (const FileError&) {  // the text is a word of another tool, such as int4
    return found;
  }
  found.config = mlx_config(value, where, true);
  return found;
}

std::string quantization_json(const QuantizationSettings& settings) {
  return json{
      {"group_size", settings.group_size}, {"bits", settings.format->bits}, {"mode", std::string(name_of(settings.format->mode))}}
      .dump();
}

}  // namespace gqmm::io
