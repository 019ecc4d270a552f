#include "io/foreign_scheme.hpp"

#include "io/error.hpp"
#include "io/quantization_keys.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string>
#include <string_view>
#include <utility>

namespace gqmm::io {
namespace {

using nlohmann::json;

/// Schemes that mlx-lm reads, at least for some models, so that it can convert them.
constexpr std::string_view convert = "convert it with `mlx_lm convert --hf-path IN --mlx-path OUT` and use the folder OUT";
constexpr std::string_view start_again =
    "take the float checkpoint that it was made from and quantize that, with `mlx_lm convert -q` or `gqmm quantize`";
constexpr std::string_view float_needed = "give the float checkpoint that it was made from";

/// A scheme by the names that config.json has for it.
struct Method {
  std::string_view method;  // as quantization_method gives it
  std::string_view name;
  std::string_view remedy;
};

constexpr Method methods[] = {
    {"aqlm", "AQLM", start_again},
    {"auto-round", "AutoRound", start_again},
    {"awq", "AWQ", convert},
    {"bitnet", "BitNet", convert},
    {"bitsandbytes", "bitsandbytes", start_again},
    {"compressed-tensors", "compressed-tensors", convert},
    {"eetq", "EETQ", start_again},
    {"exl2", "EXL2", start_again},
    {"exl3", "EXL3", start_again},
    {"fbgemm-fp8", "FBGEMM fp8", start_again},
    {"fp4", "fp4", start_again},
    {"finegrained-fp8", "fp8", convert},
    {"fp8", "fp8", convert},
    {"gptq", "GPTQ", convert},
    {"higgs", "HIGGS", start_again},
    {"hqq", "HQQ", start_again},
    {"modelopt", "ModelOpt", convert},
    {"mxfp4", "gpt-oss mxfp4", convert},
    {"quanto", "Quanto", start_again},
    {"quark", "Quark", start_again},
    {"spqr", "SpQR", start_again},
    {"torchao", "torchao", start_again},
    {"vptq", "VPTQ", start_again},
};

/// Tensors that only one scheme has: LAYER + suffix, of one of `types`, beside LAYER + companion. No types: of any type. No
/// companion: none is needed.
struct Mark {
  std::string_view suffix;
  std::array<std::string_view, 3> types;
  std::string_view companion;
  std::string_view method;
};

constexpr std::array<std::string_view, 3> any_type = {};
constexpr std::array<std::string_view, 3> byte_types = {"U8", "I8", "F4"};
constexpr std::array<std::string_view, 3> word_types = {"I32", "U32", "I16"};

/// In the order in which they are asked, the clearest first.
constexpr Mark marks[] = {
    {".g_idx", any_type, ".qweight", "gptq"},
    {".weight_packed", any_type, ".weight_scale", "compressed-tensors"},
    {".weight_packed", any_type, ".weight_shape", "compressed-tensors"},
    {".weight_scale_inv", any_type, ".weight", "fp8"},
    {".weight.absmax", any_type, ".weight", "bitsandbytes"},
    {".weight.quant_map", any_type, ".weight", "bitsandbytes"},
    {".SCB", any_type, ".weight", "bitsandbytes"},
    {"_blocks", byte_types, "_scales", "mxfp4"},
    {".weight_scale_2", any_type, ".weight", "modelopt"},
    {".weight._data", any_type, ".weight._scale", "quanto"},
    {".W_q", any_type, "", "hqq"},
    {".codes", any_type, ".codebooks", "aqlm"},
    {".weight", any_type, ".tables2", "higgs"},
    {".centroids.weight", any_type, ".indices", "vptq"},
    {".q_weight", any_type, ".q_scale", "exl2"},
    {".trellis", any_type, ".suh", "exl3"},
    {".weight", {"I8"}, ".weight_scales", "eetq"},
    {".weight", {"I8"}, ".weight_scale", "compressed-tensors"},
    {".weight", {"U8"}, ".weight_scale", "bitnet"},
    {".qweight", word_types, ".qzeros", "gptq"},  // or AWQ: their shapes tell, see method_of
    {".qweight", word_types, ".scales", "gptq"},
    {".qweight", any_type, "", "gptq"},
    {"", {"F8_E4M3", "F8_E5M2"}, "", "fp8"},
    {"", {"F4"}, "", "fp4"},
};

const Tensor* find(const TensorMap& tensors, const std::string& name) {
  const auto found = tensors.find(name);
  return found == tensors.end() ? nullptr : &found->second;
}

std::string evidence_of(std::string_view name, const Tensor& tensor) {
  return fmt::format("tensor {}, {} {}", in_quotes(name), tensor.type, printable(to_string(tensor.shape)));
}

Scheme scheme_of(std::string_view method, std::string evidence) {
  const auto* found = std::find_if(std::begin(methods), std::end(methods), [&](const Method& m) { return m.method == method; });
  if (found == std::end(methods)) {
    return {in_quotes(method), std::move(evidence), std::string(start_again)};
  }
  return {std::string(found->name), std::move(evidence), std::string(found->remedy)};
}

/// GPTQ packs the codes of one output along K, as (K/8, N) words; AWQ those of one k along N, as (K, N/8). Scales are (groups,
/// N).
std::string_view method_of(const Mark& mark, const TensorMap& tensors, const std::string& layer, const Tensor& qweight) {
  const Tensor* scales = find(tensors, layer + ".scales");
  const bool along_outputs = mark.suffix == ".qweight" && scales != nullptr && !scales->shape.empty() && !qweight.shape.empty() &&
                             scales->shape.back() > qweight.shape.back();
  return along_outputs ? "awq" : mark.method;
}

std::optional<Scheme> scheme_of_tensor(const Mark& mark, const TensorMap& tensors, const std::string& name,
                                       const Tensor& tensor) {
  if (!name.ends_with(mark.suffix)) {
    return std::nullopt;
  }
  const std::string layer = name.substr(0, name.size() - mark.suffix.size());
  const bool type_fits =
      mark.types == any_type || std::find(mark.types.begin(), mark.types.end(), tensor.type) != mark.types.end();
  if (!type_fits || (!mark.companion.empty() && find(tensors, layer + std::string(mark.companion)) == nullptr)) {
    return std::nullopt;
  }
  return scheme_of(method_of(mark, tensors, layer, tensor), evidence_of(name, tensor));
}

std::optional<Scheme> scheme_of_tensors(const TensorMap& tensors) {
  for (const Mark& mark : marks) {
    for (const auto& [name, tensor] : tensors) {
      if (auto scheme = scheme_of_tensor(mark, tensors, name, tensor)) {
        return scheme;
      }
    }
  }
  return std::nullopt;
}

/// NAME.weight of uint32 with NAME.scales.
bool is_mlx_weight(const TensorMap& tensors, const std::string& name, const Tensor& tensor) {
  constexpr std::string_view suffix = ".weight";
  return tensor.type == "U32" && name.ends_with(suffix) &&
         find(tensors, name.substr(0, name.size() - suffix.size()) + ".scales") != nullptr;
}

/// A matrix of at most eight bits per element that MLX's format does not explain.
bool may_be_packed(const TensorMap& tensors, const std::string& name, const Tensor& tensor) {
  constexpr std::string_view scales = ".scales";
  const bool packed_type = tensor.type != "BOOL" && bits_of_type(tensor.type).value_or(0) <= 8;
  if (!packed_type || tensor.shape.size() < 2) {
    return false;
  }
  if (!name.ends_with(scales)) {
    return true;
  }
  const std::string weight = name.substr(0, name.size() - scales.size()) + ".weight";
  const Tensor* found = find(tensors, weight);
  return found == nullptr || !is_mlx_weight(tensors, weight, *found);
}

std::optional<Scheme> scheme_of_config(const json& config) {
  for (const QuantizationValue& found : quantization_values(config)) {
    const std::string method = quantization_method(*found.value);
    if (!method.empty() && method != "mlx") {
      return scheme_of(method, fmt::format("config.json: {} names {}", found.key, in_quotes(method)));
    }
  }
  return std::nullopt;
}

}  // namespace

std::optional<Scheme> find_foreign_scheme(const json* config, const TensorMap& tensors) {
  std::optional<Scheme> shown = scheme_of_tensors(tensors);
  const bool packed = shown || std::any_of(tensors.begin(), tensors.end(),
                                           [&](const auto& entry) { return may_be_packed(tensors, entry.first, entry.second); });
  if (config != nullptr && (packed || tensors.empty())) {
    if (auto named = scheme_of_config(*config)) {
      return named;
    }
  }
  return shown;
}

std::optional<Scheme> find_mlx_scheme(const TensorMap& tensors) {
  for (const auto& [name, tensor] : tensors) {
    if (is_mlx_weight(tensors, name, tensor)) {
      return Scheme{"MLX", evidence_of(name, tensor), std::string(float_needed)};
    }
  }
  return std::nullopt;
}

std::string describe(const Scheme& scheme) {
  return fmt::format("holds weights quantized by {} ({}); {}", scheme.name, scheme.evidence, scheme.remedy);
}

}  // namespace gqmm::io
