// Finds the quantized tensors of a checkpoint and compares their shapes with their settings.
#include "formats/texts.hpp"
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

struct LayerTensors {
  const Tensor* w;
  const Tensor* scales;
  const Tensor* biases;
};

[[noreturn]] void fail(const Checkpoint& checkpoint, const std::string& name, std::string_view problem) {
  throw FileError(checkpoint.path.native(), fmt::format("{}: {}", in_quotes(name), problem));
}

std::string text(const Tensor& tensor) { return fmt::format("{} {}", tensor.type, printable(to_string(tensor.shape))); }

/// True if two shapes differ at most in the last dimension.
bool same_but_last(const Shape& a, const Shape& b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end() - 1, b.begin());
}

/// True if the types and shapes fit the settings. The words hold words · 32 / bits codes, and the scales belong to scales ·
/// group_size codes. Both must be K. The products are checked for overflow, because an empty tensor can have any shape.
bool fits(const QuantizationSettings& settings, const LayerTensors& parts) {
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

/// True if an earlier format of the registry looks the same in a file. Then the earlier one is meant unless the mode is stated,
/// because MLX's own formats come first.
bool has_earlier_twin(const Format& format) {
  const auto all = formats();
  return std::any_of(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(index_of(format)), [&](const Format& other) {
    return other.bits == format.bits && other.has_biases == format.has_biases &&
           std::equal(other.group_sizes.begin(), other.group_sizes.end(), format.group_sizes.begin(), format.group_sizes.end());
  });
}

/// All settings that the shapes and `assumed` allow.
std::vector<QuantizationSettings> fitting_settings(const LayerTensors& parts, const AssumedSettings& assumed) {
  std::vector<QuantizationSettings> fitting;
  for (const Format& format : formats()) {
    if (!assumed.mode && has_earlier_twin(format)) {
      continue;
    }
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

std::string text_of_biases(const LayerTensors& parts) {
  return parts.biases == nullptr ? std::string("no biases") : "biases " + text(*parts.biases);
}

[[noreturn]] void fail_to_fit(const Checkpoint& checkpoint, const std::string& name, const LayerTensors& parts) {
  fail(checkpoint, name,
       fmt::format("no format fits weight {}, scales {} and {}", text(*parts.w), text(*parts.scales), text_of_biases(parts)));
}

/// The settings of a layer, and the names of those that the checkpoint does not state.
struct ResolvedSettings {
  QuantizationSettings settings;
  std::string inferred;
};

/// The only settings that the shapes and `assumed` allow, for a checkpoint without settings. Throws FileError if there are none
/// or several.
ResolvedSettings settings_of_shapes(const Checkpoint& checkpoint, const std::string& name, const LayerTensors& parts,
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

/// The names of the settings that differ from the defaults.
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

/// The settings of a layer that the defaults do not fit. Models of mixed bits usually have one group size. So the group size of
/// the defaults is tried first, or MLX's group size if the mode differs. Next, the format of the defaults is tried with another
/// group size.
QuantizationSettings settings_beside(const QuantizationSettings& defaults, const Checkpoint& checkpoint, const std::string& name,
                                     const LayerTensors& parts, const AssumedSettings& assumed) {
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

/// The settings of layer `name`, or nullopt if it is not quantized.
std::optional<ResolvedSettings> resolve(const Checkpoint& checkpoint, const std::string& name, const LayerTensors& parts,
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
    return ResolvedSettings{**own, ""};
  }
  const auto& defaults = config.defaults();
  for (const QuantizationSettings& settings : config.settings_under_other_prefixes(name)) {
    if (fits(settings, parts)) {
      return ResolvedSettings{settings, defaults ? differences(settings, *defaults) : ""};
    }
  }
  if (!defaults) {
    return settings_of_shapes(checkpoint, name, parts, assumed);
  }
  if (fits(*defaults, parts)) {
    return ResolvedSettings{*defaults, ""};
  }
  const QuantizationSettings settings = settings_beside(*defaults, checkpoint, name, parts, assumed);
  return ResolvedSettings{settings, differences(settings, *defaults)};
}

/// The checked NAME.global_scale, or nullopt if there is none.
std::optional<array> global_scale_of(const Checkpoint& checkpoint, const std::string& name, const LayerTensors& parts,
                                     Mode mode) {
  const Tensor* scale = find(checkpoint, name + ".global_scale");
  if (scale == nullptr) {
    return std::nullopt;
  }
  if (!default_format(mode).has_global_scale) {
    fail(checkpoint, name, fmt::format("there is a global_scale {}, but {}", text(*scale), text_without_global_scale(mode)));
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

QuantizedTensor make_tensor(const Checkpoint& checkpoint, const std::string& name, const LayerTensors& parts,
                            const ResolvedSettings& resolved) {
  const QuantizationSettings& settings = resolved.settings;
  QuantizedTensor tensor;
  tensor.name = name;
  tensor.weights = {.w = parts.w->view(),
                    .scales = parts.scales->view(),
                    .global_scale = global_scale_of(checkpoint, name, parts, settings.format->mode),
                    .mode = settings.format->mode,
                    .bits = settings.format->bits,
                    .group_size = settings.group_size};
  if (parts.biases != nullptr) {
    tensor.weights.biases = parts.biases->view();
  }
  tensor.inferred = resolved.inferred;
  const Shape& shape = parts.w->shape;
  tensor.experts = element_count({shape.begin(), shape.end() - 2});
  tensor.N = tensor.weights.w.dim(-2);
  tensor.K = tensor.weights.scales.dim(-1) * settings.group_size;
  return tensor;
}

/// The tensors of layer `name` if it is quantized in MLX's format, which has uint32 weights and scales. Otherwise nullopt.
std::optional<LayerTensors> find_parts(const Checkpoint& checkpoint, const std::string& name, const Tensor& weight) {
  const LayerTensors parts = {&weight, find(checkpoint, name + ".scales"), find(checkpoint, name + ".biases")};
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

const Format& QuantizedTensor::format() const { return *find_format(weights.mode, *weights.bits); }

std::int64_t QuantizedTensor::nbytes() const noexcept { return static_cast<std::int64_t>(weights.nbytes()); }

std::vector<QuantizedTensor> quantized_tensors(const Checkpoint& checkpoint, const AssumedSettings& assumed,
                                               const Notify& notify) {
  std::vector<QuantizedTensor> tensors;
  std::vector<std::string_view> without_scales;
  for (const auto& [full_name, weight] : checkpoint.tensors) {
    if (!full_name.ends_with(weight_suffix)) {
      continue;
    }
    const std::string name = full_name.substr(0, full_name.size() - weight_suffix.size());
    const std::optional<LayerTensors> parts = find_parts(checkpoint, name, weight);
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
