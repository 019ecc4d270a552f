// Finds the quantized tensors of a checkpoint and holds their shapes against their settings.
#include "io/checkpoint.hpp"
#include "io/error.hpp"
#include "io/foreign_scheme.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <utility>

namespace gqmm::io {
namespace {

constexpr std::string_view weight_suffix = ".weight";

const Tensor* find(const Checkpoint& checkpoint, const std::string& name) {
  const auto found = checkpoint.tensors.find(name);
  return found == checkpoint.tensors.end() ? nullptr : &found->second;
}

struct Parts {
  const Tensor* w;
  const Tensor* scales;
  const Tensor* biases;
};

[[noreturn]] void fail(const Checkpoint& checkpoint, const std::string& name, std::string_view problem) {
  throw FileError(checkpoint.path.native(), fmt::format("{}: {}", in_quotes(name), problem));
}

std::string text(const Tensor& tensor) { return fmt::format("{} {}", tensor.type, printable(to_string(tensor.shape))); }

/// Two shapes of the same leading dimensions and N.
bool same_but_last(const Shape& a, const Shape& b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end() - 1, b.begin());
}

/// K = K·bits/32 words · 32 / bits = K/group_size scales · group_size. (The shape of a tensor that is in memory is far from
/// overflowing; that of an empty one need not be.)
bool fits(const QuantizationSettings& settings, const Parts& parts) {
  const ScaleEncoding encoding = settings.format->scale_encoding;
  const bool scale_type_fits = encoding == ScaleEncoding::floating
                                   ? parts.scales->dtype() && is_compute_float(*parts.scales->dtype())
                                   : parts.scales->dtype() == Dtype::uint8;
  std::int64_t word_bits = 0;
  std::int64_t code_bits = 0;
  return scale_type_fits && settings.format->has_biases == (parts.biases != nullptr) &&
         !__builtin_mul_overflow(parts.w->shape.back(), std::int64_t{32}, &word_bits) &&
         !__builtin_mul_overflow(parts.scales->shape.back(), std::int64_t{settings.group_size} * settings.format->bits,
                                 &code_bits) &&
         word_bits == code_bits;
}

/// Settings in the table of formats that the shapes and `assumed` allow.
std::vector<QuantizationSettings> fitting_settings(const Parts& parts, const AssumedSettings& assumed) {
  std::vector<QuantizationSettings> fitting;
  for (const Format& format : formats()) {
    for (const int group_size : format.group_sizes) {
      const QuantizationSettings settings = {&format, group_size};
      if (assumed.mode.value_or(format.mode) == format.mode && assumed.bits.value_or(format.bits) == format.bits &&
          assumed.group_size.value_or(group_size) == group_size && fits(settings, parts)) {
        fitting.push_back(settings);
      }
    }
  }
  return fitting;
}

std::string names_of(const std::vector<QuantizationSettings>& list) {
  std::vector<std::string> names;
  for (const QuantizationSettings& settings : list) {
    names.push_back(fmt::format("{} in groups of {}", describe(*settings.format), settings.group_size));
  }
  return fmt::format("{}", fmt::join(names, ", "));
}

std::string text_of_biases(const Parts& parts) {
  return parts.biases == nullptr ? std::string("no biases") : "biases " + text(*parts.biases);
}

[[noreturn]] void fail_to_fit(const Checkpoint& checkpoint, const std::string& name, const Parts& parts) {
  fail(checkpoint, name,
       fmt::format("no format fits weight {}, scales {} and {}", text(*parts.w), text(*parts.scales), text_of_biases(parts)));
}

/// Settings and which of them the checkpoint does not state.
struct Resolved {
  QuantizationSettings settings;
  std::string inferred;
};

/// The only settings that the shapes and `assumed` allow, for a checkpoint that says nothing.
Resolved settings_of_shapes(const Checkpoint& checkpoint, const std::string& name, const Parts& parts,
                            const AssumedSettings& assumed) {
  const std::vector<QuantizationSettings> fitting = fitting_settings(parts, assumed);
  if (fitting.empty()) {
    fail_to_fit(checkpoint, name, parts);
  }
  if (fitting.size() > 1) {
    const std::string where =
        checkpoint.foreign_settings.empty()
            ? "put the model's config.json beside the file"
            : checkpoint.foreign_settings + ", which MLX does not know: put MLX's settings into config.json";
    fail(checkpoint, name, fmt::format("the shapes fit {}; {}, or give --bits or --group-size", names_of(fitting), where));
  }
  std::vector<std::string_view> inferred;
  if (!assumed.bits) {
    inferred.emplace_back("bits");
  }
  if (!assumed.group_size) {
    inferred.emplace_back("group_size");
  }
  if (!assumed.mode) {
    inferred.emplace_back("mode");
  }
  return {fitting.front(), fmt::format("{}", fmt::join(inferred, ", "))};
}

/// What differs from the defaults, for people.
std::string differences(const QuantizationSettings& settings, const QuantizationSettings& defaults) {
  std::vector<std::string_view> names;
  if (settings.format->bits != defaults.format->bits) {
    names.emplace_back("bits");
  }
  if (settings.group_size != defaults.group_size) {
    names.emplace_back("group_size");
  }
  if (settings.format->mode != defaults.format->mode) {
    names.emplace_back("mode");
  }
  return fmt::format("{}", fmt::join(names, ", "));
}

/// The settings of a layer that the defaults do not fit. Recipes of mixed bits keep one group size, that of the defaults, or that
/// of MLX for another mode; failing that, the bits of the defaults with another group size.
QuantizationSettings settings_beside(const QuantizationSettings& defaults, const Checkpoint& checkpoint, const std::string& name,
                                     const Parts& parts, const AssumedSettings& assumed) {
  std::vector<QuantizationSettings> fitting = fitting_settings(parts, assumed);
  if (fitting.empty()) {
    fail_to_fit(checkpoint, name, parts);
  }
  const auto find = [&fitting](const auto& wanted) {
    const auto found = std::find_if(fitting.begin(), fitting.end(), wanted);
    return found == fitting.end() ? std::nullopt : std::optional(*found);
  };
  const auto usual_group_size = [&defaults](const QuantizationSettings& settings) {
    const bool same_mode = settings.format->mode == defaults.format->mode;
    return settings.group_size == (same_mode ? defaults.group_size : settings.format->default_group_size);
  };
  if (const auto found = find(usual_group_size)) {
    return *found;
  }
  if (const auto found = find([&defaults](const auto& settings) { return settings.format == defaults.format; })) {
    return *found;
  }
  if (fitting.size() > 1) {
    fail(checkpoint, name,
         fmt::format("the shapes contradict the settings {}, group_size {}, and fit {}; give the layer its own settings in "
                     "config.json, under \"quantization\"",
                     describe(*defaults.format), defaults.group_size, names_of(fitting)));
  }
  return fitting.front();
}

/// The settings of layer `name`; nullopt if it is not quantized.
std::optional<Resolved> resolve(const Checkpoint& checkpoint, const std::string& name, const Parts& parts,
                                const AssumedSettings& assumed) {
  if (!checkpoint.quantization) {
    return settings_of_shapes(checkpoint, name, parts, assumed);
  }
  const QuantizationConfig& config = *checkpoint.quantization;
  if (const auto own = config.settings_named(name)) {
    if (!*own) {
      return std::nullopt;
    }
    if (!fits(**own, parts)) {
      fail(checkpoint, name,
           fmt::format(
               "weight {}, scales {} and {} contradict the layer's own settings {}, group_size {} (config.json or metadata)",
               text(*parts.w), text(*parts.scales), text_of_biases(parts), describe(*(*own)->format), (*own)->group_size));
    }
    return Resolved{**own, ""};
  }
  const auto& defaults = config.defaults();
  for (const QuantizationSettings& settings : config.settings_under_other_prefixes(name)) {
    if (fits(settings, parts)) {
      return Resolved{settings, defaults ? differences(settings, *defaults) : ""};
    }
  }
  if (!defaults) {
    return settings_of_shapes(checkpoint, name, parts, assumed);
  }
  if (fits(*defaults, parts)) {
    return Resolved{*defaults, ""};
  }
  const QuantizationSettings settings = settings_beside(*defaults, checkpoint, name, parts, assumed);
  return Resolved{settings, differences(settings, *defaults)};
}

/// NAME.global_scale, checked; nullopt if there is none.
std::optional<array> global_scale_of(const Checkpoint& checkpoint, const std::string& name, const Parts& parts, Mode mode) {
  const Tensor* scale = find(checkpoint, name + ".global_scale");
  if (scale == nullptr) {
    return std::nullopt;
  }
  if (mode != Mode::nvfp4) {
    fail(checkpoint, name,
         fmt::format("there is a global_scale {}, but mode \"{}\" has none; only \"nvfp4\" takes it", text(*scale),
                     name_of(mode)));
  }
  const Shape& w = parts.w->shape;
  const bool one_value = std::all_of(scale->shape.begin(), scale->shape.end(), [](std::int64_t extent) { return extent == 1; });
  if (scale->dtype() != Dtype::float32 || (!one_value && scale->shape != Shape(w.begin(), w.end() - 2))) {
    fail(checkpoint, name,
         fmt::format("global_scale is {}; it should be F32, of one value or one per matrix of weight {}", text(*scale),
                     text(*parts.w)));
  }
  return scale->view();
}

QuantizedTensor make_tensor(const Checkpoint& checkpoint, const std::string& name, const Parts& parts, const Resolved& resolved) {
  const QuantizationSettings& settings = resolved.settings;
  QuantizedTensor tensor;
  tensor.name = name;
  tensor.format = settings.format;
  tensor.group_size = settings.group_size;
  tensor.w = parts.w->view();
  tensor.scales = parts.scales->view();
  if (parts.biases != nullptr) {
    tensor.biases = parts.biases->view();
  }
  tensor.global_scale = global_scale_of(checkpoint, name, parts, settings.format->mode);
  tensor.inferred = resolved.inferred;
  tensor.experts = element_count({tensor.w.shape().begin(), tensor.w.shape().end() - 2});
  tensor.N = tensor.w.dim(-2);
  tensor.K = tensor.scales.dim(-1) * settings.group_size;
  return tensor;
}

/// The parts of layer `name` if it is quantized as MLX stores it: uint32 weights with scales.
std::optional<Parts> find_parts(const Checkpoint& checkpoint, const std::string& name, const Tensor& weight) {
  const Parts parts = {&weight, find(checkpoint, name + ".scales"), find(checkpoint, name + ".biases")};
  if (weight.dtype() != Dtype::uint32 || parts.scales == nullptr) {
    return std::nullopt;
  }
  if (weight.shape.size() < 2) {
    fail(checkpoint, name, fmt::format("weight {} has scales but fewer than two dimensions", text(weight)));
  }
  if (!same_but_last(weight.shape, parts.scales->shape)) {
    fail(checkpoint, name,
         fmt::format("weight {} and scales {} differ in more than the last dimension", text(weight), text(*parts.scales)));
  }
  if (parts.biases != nullptr && (parts.biases->shape != parts.scales->shape || parts.biases->type != parts.scales->type)) {
    fail(checkpoint, name, fmt::format("biases {} differ from scales {}", text(*parts.biases), text(*parts.scales)));
  }
  return parts;
}

}  // namespace

std::int64_t QuantizedTensor::nbytes() const noexcept {
  const auto bytes = [](const array& a) { return a.size() * static_cast<std::int64_t>(size_of(a.dtype())); };
  return bytes(w) + bytes(scales) + (biases ? bytes(*biases) : 0) + (global_scale ? bytes(*global_scale) : 0);
}

std::vector<QuantizedTensor> quantized_tensors(const Checkpoint& checkpoint, const AssumedSettings& assumed,
                                               const Notify& notify) {
  std::vector<QuantizedTensor> tensors;
  std::vector<std::string_view> without_scales;
  for (const auto& [full_name, weight] : checkpoint.tensors) {
    if (!full_name.ends_with(weight_suffix)) {
      continue;
    }
    const std::string name = full_name.substr(0, full_name.size() - weight_suffix.size());
    const std::optional<Parts> parts = find_parts(checkpoint, name, weight);
    if (!parts) {
      if (weight.dtype() == Dtype::uint32 && weight.shape.size() >= 2) {
        without_scales.push_back(full_name);
      }
      continue;
    }
    if (const auto resolved = resolve(checkpoint, name, *parts, assumed)) {
      tensors.push_back(make_tensor(checkpoint, name, *parts, *resolved));
    }
  }
  if (tensors.empty()) {
    if (const auto scheme = find_foreign_scheme(&checkpoint.config, checkpoint.tensors); scheme && !checkpoint.tensors.empty()) {
      throw FileError(checkpoint.path.native(), describe(*scheme));
    }
  }
  if (!without_scales.empty()) {
    notify(fmt::format("[{}] {} is uint32, as quantized weights are, but has no scales beside it{}; a file may be missing",
                       printable(checkpoint.path.native()), in_quotes(without_scales.front()),
                       without_scales.size() == 1 ? "" : fmt::format(", like {} other tensors", without_scales.size() - 1)));
  }
  if (!tensors.empty() && !checkpoint.foreign_settings.empty()) {
    notify(checkpoint.foreign_settings + ", which are no settings of MLX; the shapes of the tensors decide");
  }
  return tensors;
}

}  // namespace gqmm::io
