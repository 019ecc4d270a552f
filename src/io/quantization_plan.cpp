#include "io/quantization_plan.hpp"

#include "io/error.hpp"

#include <fmt/format.h>

#include <fnmatch.h>
#include <algorithm>
#include <charconv>
#include <set>
#include <stdexcept>
#include <utility>

namespace gqmm::io {
namespace {

bool matches(const std::string& glob, const std::string& name) {
  return ::fnmatch(glob.c_str(), name.c_str(), 0) == 0 || ::fnmatch(glob.c_str(), layer_of(name).c_str(), 0) == 0;
}

/// The reason why the numbers of a tensor cannot be quantized in groups of `group_size`. Empty if they can.
std::string reason_in_numbers(const SourceTensor& source, int group_size) {
  const std::optional<Dtype> dtype = source.parts.front().tensor->dtype();
  if (!dtype || !is_compute_float(*dtype)) {
    return fmt::format("{} is no float16, bfloat16 or float32", source.type);
  }
  if (source.nbytes() == 0) {
    return "it is empty";
  }
  return source.shape.back() % group_size == 0
             ? ""
             : fmt::format("K = {} is not a multiple of group_size = {}", source.shape.back(), group_size);
}

const TensorSettings* last_match(const std::vector<TensorSettings>& all, const std::string& name) {
  const auto found = std::find_if(all.rbegin(), all.rend(), [&](const auto& each) { return matches(each.glob, name); });
  return found == all.rend() ? nullptr : &*found;
}

bool any_match(const std::vector<std::string>& globs, const std::string& name) {
  return std::any_of(globs.begin(), globs.end(), [&](const std::string& glob) { return matches(glob, name); });
}

/// Decides for each tensor whether it is quantized, and with which settings.
class QuantizationPlanner {
 public:
  QuantizationPlanner(std::vector<SourceTensor> sources, const ModelFacts& facts, const PlanOptions& options,
                      std::string_view origin)
      : sources_(std::move(sources)), options_(options), origin_(origin) {
    for (const SourceTensor& source : sources_) {
      refuse_integers(source);
      decisions_.push_back(decide_layer(facts, source.name, source.shape, options.lone_file));
    }
    for (const std::string& glob : options.exclude) {
      matches_of("--exclude", glob);
    }
    for (const std::string& glob : options.include) {
      take_what_is_named("--include", glob);
    }
    for (const TensorSettings& each : options.per_tensor) {
      take_what_is_named("--per-tensor", each.glob);
    }
  }

  std::vector<PlannedTensor> run() {
    std::vector<PlannedTensor> plan;
    for (std::size_t i = 0; i < sources_.size(); ++i) {
      PlannedTensor item = {sources_[i], std::nullopt, ""};
      item.reason = reason_to_stay(i);
      if (item.reason.empty()) {
        item.settings = settings_for(i);
        const int group_size = item.settings->group_size;
        item.reason = reason_in_numbers(item.source, group_size);
        if (!item.reason.empty() && last_match(options_.per_tensor, item.source.name) != nullptr) {
          throw FileError(origin_, fmt::format("tensor {}: {}, which --per-tensor asks for; take a smaller group or --exclude it",
                                               in_quotes(item.source.name), item.reason));
        }
        if (!item.reason.empty()) {
          item.settings.reset();
        }
      }
      plan.push_back(std::move(item));
    }
    if (std::none_of(plan.begin(), plan.end(), [](const PlannedTensor& item) { return item.settings.has_value(); })) {
      throw FileError(origin_,
                      fmt::format("no tensor is a float matrix of a layer whose rows are a multiple of group_size = {}{}; "
                                  "there is nothing to quantize",
                                  options_.settings.group_size,
                                  options_.include.empty() && options_.exclude.empty() ? "" : " and is selected"));
    }
    return plan;
  }

 private:
  /// Refuses weights of a layer that are integers. They are quantized in a scheme that was not recognised. Their name or scales
  /// beside them tell that they are weights.
  void refuse_integers(const SourceTensor& source) const {
    const bool integers =
        !source.type.starts_with("F") && !source.type.starts_with("BF") && source.type != "BOOL" && source.type != "C64";
    const bool words = source.type != "I64" && source.type != "U64";  // integers of 64 bits are positions and other indices
    if (integers && source.shape.size() >= 2 &&
        (layer_of(source.name) != source.name || (words && has_scales_beside(source.name)))) {
      throw FileError(origin_,
                      fmt::format("holds weights that are quantized already in an unknown scheme (tensor {}, {} {}); give "
                                  "the float checkpoint that it was made from",
                                  in_quotes(source.name), source.type, to_string(source.shape)));
    }
  }

  /// True if another tensor of the same module has a name such as "scales", "weight_scale" or "qzeros".
  [[nodiscard]] bool has_scales_beside(const std::string& name) const {
    const std::string module = name.substr(0, name.rfind('.') + 1);  // with the dot; empty if there is none
    return std::any_of(sources_.begin(), sources_.end(), [&](const SourceTensor& other) {
      const std::string_view part = std::string_view(other.name).substr(std::min(module.size(), other.name.size()));
      return other.name != name && other.name.starts_with(module) && part.find('.') == std::string_view::npos &&
             (part.find("scale") != std::string_view::npos || part.find("zeros") != std::string_view::npos);
    });
  }

  std::vector<std::size_t> matches_of(std::string_view option, const std::string& glob) const {
    std::vector<std::size_t> found;
    for (std::size_t i = 0; i < sources_.size(); ++i) {
      if (matches(glob, sources_[i].name)) {
        found.push_back(i);
      }
    }
    if (found.empty()) {
      throw FileError(
          origin_, fmt::format("{} {} matches no tensor; `gqmm quantize --dry-run` lists their names", option, in_quotes(glob)));
    }
    return found;
  }

  /// Applies the glob of an option. It selects among the matrices of layers. If it matches none of them, the user means the
  /// tensors that the rules would not quantize.
  void take_what_is_named(std::string_view option, const std::string& glob) {
    const std::vector<std::size_t> found = matches_of(option, glob);
    if (std::any_of(found.begin(), found.end(), [&](std::size_t i) { return decisions_[i].quantized; })) {
      return;
    }
    for (const std::size_t i : found) {
      if (!decisions_[i].forced) {
        named_.insert(i);
      }
    }
    if (std::none_of(found.begin(), found.end(), [&](std::size_t i) { return named_.contains(i); })) {
      const std::size_t first = found.front();
      throw FileError(origin_, fmt::format("{} {} matches only tensors that cannot be quantized, for example {} ({})", option,
                                           in_quotes(glob), in_quotes(sources_[first].name), decisions_[first].reason));
    }
  }

  std::string reason_to_stay(std::size_t i) const {
    if (any_match(options_.exclude, sources_[i].name)) {
      return "--exclude";
    }
    if (!options_.include.empty() && !any_match(options_.include, sources_[i].name)) {
      return "not among --include";
    }
    if (!decisions_[i].quantized && !named_.contains(i)) {
      return decisions_[i].reason;
    }
    // mlx-lm checks the group size of the command for every layer, even if the layer has settings of its own.
    return decisions_[i].bits != 0 && last_match(options_.per_tensor, sources_[i].name) == nullptr
               ? reason_in_numbers(sources_[i], options_.settings.group_size)
               : "";
  }

  QuantizationSettings settings_for(std::size_t i) const {
    if (const TensorSettings* own = last_match(options_.per_tensor, sources_[i].name); own != nullptr) {
      return own->settings;
    }
    constexpr int group_size = 64;  // mlx-lm uses this for such a layer, whatever the command asks for
    return decisions_[i].bits == 0 ? options_.settings
                                   : QuantizationSettings{find_format(Mode::affine, decisions_[i].bits), group_size};
  }

  std::vector<SourceTensor> sources_;
  std::vector<LayerDecision> decisions_;
  std::set<std::size_t> named_;
  const PlanOptions& options_;
  std::string_view origin_;
};

int number_in(std::string_view text, std::string_view what, std::string_view digits) {
  int value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error != std::errc() || end != digits.data() + digits.size()) {
    throw std::invalid_argument(fmt::format("[--per-tensor {}] {} is {}, not a number; write GLOB=BITS[:GROUP[:MODE]]",
                                            printable(text), what, in_quotes(digits)));
  }
  return value;
}

Shape with_last(Shape shape, std::int64_t last) {
  shape.back() = last;
  return shape;
}

}  // namespace

TensorSettings parse_tensor_settings(std::string_view text, const QuantizationSettings& defaults) {
  const std::size_t equals = text.rfind('=');
  if (equals == std::string_view::npos || equals == 0) {
    throw std::invalid_argument(
        fmt::format("[--per-tensor {}] has no GLOB before \"=\"; write GLOB=BITS[:GROUP[:MODE]]", printable(text)));
  }
  std::vector<std::string_view> fields;
  for (std::string_view left = text.substr(equals + 1);;) {
    const std::size_t colon = left.find(':');
    fields.push_back(left.substr(0, colon));
    if (colon == std::string_view::npos) {
      break;
    }
    left.remove_prefix(colon + 1);
  }
  if (fields.size() > 3) {
    throw std::invalid_argument(
        fmt::format("[--per-tensor {}] has more than three settings; write GLOB=BITS[:GROUP[:MODE]]", printable(text)));
  }
  const std::string where = fmt::format("--per-tensor {}", printable(text));
  const int bits = number_in(text, "BITS", fields[0]);
  const std::optional<int> group = fields.size() > 1 ? std::optional(number_in(text, "GROUP", fields[1])) : std::nullopt;
  if (fields.size() > 2) {
    return {std::string(text.substr(0, equals)),
            resolve_settings(where, mode_from_name(fields[2], where), &bits, group ? &*group : nullptr)};
  }
  const Mode mode = find_format(defaults.format->mode, bits) != nullptr ? defaults.format->mode : Mode::affine;
  const int group_size = group                           ? *group
                         : mode == defaults.format->mode ? defaults.group_size
                                                         : find_format(Mode::affine, 8)->default_group_size;
  return {std::string(text.substr(0, equals)), resolve_settings(where, mode, &bits, &group_size)};
}

std::vector<TensorLayout> PlannedTensor::layouts() const {
  if (!settings) {
    return {{source.name, source.type, source.shape}};
  }
  const std::int64_t K = source.shape.back();
  const Shape scales = with_last(source.shape, K / settings->group_size);
  const bool floating = settings->format->scale_encoding == ScaleEncoding::floating;
  std::vector<TensorLayout> result = {
      {layer() + ".weight", "U32",
       with_last(source.shape, K / settings->group_size * (settings->group_size * settings->format->bits / 32))},
      {layer() + ".scales", floating ? source.type : "U8", scales}};
  if (settings->format->has_biases) {
    result.push_back({layer() + ".biases", source.type, scales});
  }
  return result;
}

std::uint64_t PlannedTensor::bytes_after() const {
  std::uint64_t total = 0;
  for (const TensorLayout& layout : layouts()) {
    total += static_cast<std::uint64_t>(byte_count(layout.type, layout.shape).value_or(0));
  }
  return total;
}

std::vector<PlannedTensor> plan_quantization(std::vector<SourceTensor> sources, const ModelFacts& facts,
                                             const PlanOptions& options, std::string_view origin) {
  std::vector<PlannedTensor> plan = QuantizationPlanner(std::move(sources), facts, options, origin).run();
  std::set<std::string> names;
  for (const PlannedTensor& item : plan) {
    for (const TensorLayout& layout : item.layouts()) {
      if (!names.insert(layout.name).second) {
        throw FileError(origin, fmt::format("two tensors would have the name {}; rename one", in_quotes(layout.name)));
      }
    }
  }
  return plan;
}

nlohmann::ordered_json quantization_of(const std::vector<PlannedTensor>& plan, const QuantizationSettings& defaults) {
  const auto object = [](const QuantizationSettings& settings) {
    return nlohmann::ordered_json{{"group_size", settings.group_size},
                                  {"bits", settings.format->bits},
                                  {"mode", std::string(name_of(settings.format->mode))}};
  };
  nlohmann::ordered_json result = object(defaults);
  for (const PlannedTensor& item : plan) {
    if (item.settings && (item.settings->format != defaults.format || item.settings->group_size != defaults.group_size)) {
      result[item.layer()] = object(*item.settings);
    }
  }
  return result;
}

}  // namespace gqmm::io
