// Finds the quantized tensors of a checkpoint and holds their shapes against their settings.
#include "io/checkpoint.hpp"
#include "io/error.hpp"

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

/// The only settings in the table of formats that the shapes and `assumed` allow.
QuantizationSettings infer(const Checkpoint& checkpoint, const std::string& name, const Parts& parts,
                           const AssumedSettings& assumed) {
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
  if (fitting.size() == 1) {
    return fitting.front();
  }
  if (fitting.empty()) {
    fail(checkpoint, name,
         fmt::format("no format fits weight {}, scales {} and {}", text(*parts.w), text(*parts.scales),
                     parts.biases == nullptr ? "no biases" : "biases"));
  }
  std::vector<std::string> names;
  for (const QuantizationSettings& settings : fitting) {
    names.push_back(fmt::format("{} in groups of {}", describe(*settings.format), settings.group_size));
  }
  fail(checkpoint, name,
       fmt::format("the shapes fit {}; put the model's config.json beside the file, or give --bits or --group-size",
                   fmt::join(names, ", ")));
}

QuantizedTensor make_tensor(const Checkpoint& checkpoint, const std::string& name, const Parts& parts,
                            const QuantizationSettings& settings) {
  if (!fits(settings, parts)) {
    fail(checkpoint, name,
         fmt::format("weight {}, scales {} and {} contradict the settings {}, group_size {} (config.json or metadata)",
                     text(*parts.w), text(*parts.scales),
                     parts.biases == nullptr ? std::string("no biases") : "biases " + text(*parts.biases),
                     describe(*settings.format), settings.group_size));
  }
  QuantizedTensor tensor;
  tensor.name = name;
  tensor.format = settings.format;
  tensor.group_size = settings.group_size;
  tensor.w = parts.w->view();
  tensor.scales = parts.scales->view();
  if (parts.biases != nullptr) {
    tensor.biases = parts.biases->view();
  }
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
  return bytes(w) + bytes(scales) + (biases ? bytes(*biases) : 0);
}

std::vector<QuantizedTensor> quantized_tensors(const Checkpoint& checkpoint, const AssumedSettings& assumed) {
  std::vector<QuantizedTensor> tensors;
  for (const auto& [full_name, weight] : checkpoint.tensors) {
    if (!full_name.ends_with(weight_suffix)) {
      continue;
    }
    const std::string name = full_name.substr(0, full_name.size() - weight_suffix.size());
    const std::optional<Parts> parts = find_parts(checkpoint, name, weight);
    if (!parts) {
      continue;
    }
    if (!checkpoint.quantization) {
      tensors.push_back(make_tensor(checkpoint, name, *parts, infer(checkpoint, name, *parts, assumed)));
    } else if (const auto settings = checkpoint.quantization->settings_of(name)) {
      tensors.push_back(make_tensor(checkpoint, name, *parts, *settings));
    }
  }
  return tensors;
}

}  // namespace gqmm::io
