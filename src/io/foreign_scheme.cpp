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

/// The remedy for schemes that mlx-lm can read, at least for some models, and therefore convert.
constexpr std::string_view convert = "convert it with `mlx_lm convert --hf-path IN --mlx-path OUT` and use the folder OUT";
constexpr std::string_view start_again =
    "take the float checkpoint that it was made from and quantize that, with `mlx_lm convert -q` or `gqmm quantize`";
constexpr std::string_view float_needed = "give the float checkpoint that it was made from";

/// A scheme, the name that config.json has for it, and the remedy.
struct KnownScheme {
  std::string_view method;  // the name in the form that quantization_method returns
  std::string_view name;
  std::string_view remedy;
};

constexpr KnownScheme known_schemes[] = {
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
    {"gqmm", "gqmm's PackedWeights.save", "read it with gqmm.PackedWeights.load, or take the checkpoint that was packed"},
    {"higgs", "HIGGS", start_again},
    {"hqq", "HQQ", start_again},
    {"marlin", "Marlin", start_again},
    {"modelopt", "ModelOpt", convert},
    {"mxfp4", "gpt-oss mxfp4", convert},
    {"quanto", "Quanto", start_again},
    {"quark", "Quark", start_again},
    {"quip", "QuIP#", start_again},
    {"spqr", "SpQR", start_again},
    {"torchao", "torchao", start_again},
    {"vptq", "VPTQ", start_again},
};

/// A tensor that only one scheme has. Its name is LAYER + suffix, and its type is one of `types`. A tensor LAYER + companion is
/// beside it. If `types` is empty, any type will do. If `companion` is empty, no companion is needed. In the file of a single
/// layer, LAYER and the dot after it are missing.
struct SchemeMark {
  std::string_view suffix;
  std::array<std::string_view, 3> types;
  std::string_view companion;
  std::string_view method;
};

constexpr std::array<std::string_view, 3> any_type = {};
constexpr std::array<std::string_view, 3> byte_types = {"U8", "I8", "F4"};
constexpr std::array<std::string_view, 3> word_types = {"I32", "U32", "I16"};

/// The marks in the order in which they are looked for. The clearest come first.
constexpr SchemeMark marks[] = {
    {".g_idx", any_type, ".qweight", "gptq"},
    {".weight_packed", any_type, ".weight_scale", "compressed-tensors"},
    {".weight_packed", any_type, ".weight_shape", "compressed-tensors"},
    {".compressed", any_type, ".bitmask", "compressed-tensors"},
    {".weight_scale_inv", any_type, ".weight", "fp8"},
    {".weight.absmax", any_type, ".weight", "bitsandbytes"},
    {".weight.quant_map", any_type, ".weight", "bitsandbytes"},
    {".SCB", any_type, ".weight", "bitsandbytes"},
    {"_blocks", byte_types, "_scales", "mxfp4"},
    {".weight_scale_2", any_type, ".weight", "modelopt"},
    {".weight._data", any_type, ".weight._scale", "quanto"},
    {".W_q", any_type, "", "hqq"},
    {".codes", any_type, ".codebooks", "aqlm"},
    {".codes", {"U32"}, ".scales", "gqmm"},
    {".B", word_types, ".s", "marlin"},
    {".Qidxs", any_type, "", "quip"},
    {".dense_weights", any_type, ".row_offsets", "spqr"},
    {".weight:_data", any_type, "", "torchao"},
    {"._weight_qdata", any_type, "", "torchao"},
    {".weight", any_type, ".tables2", "higgs"},
    {".centroids.weight", any_type, ".indices", "vptq"},
    {".q_weight", any_type, ".q_scale", "exl2"},
    {".trellis", any_type, ".suh", "exl3"},
    {".weight", {"I8"}, ".weight_scales", "eetq"},
    {".weight", {"I8"}, ".weight_scale", "compressed-tensors"},
    {".weight", {"U8"}, ".weight_scale", "bitnet"},
    {".qweight", word_types, ".qzeros", "gptq"},  // this may also be AWQ; method_of decides by the shapes
    {".qweight", word_types, ".scales", "gptq"},
    {".qweight", any_type, "", "gptq"},
    {"", {"F8_E4M3", "F8_E5M2"}, "", "fp8"},
    {"", {"F4"}, "", "fp4"},
};

const Tensor* find(const TensorMap& tensors, std::string_view name) {
  const auto found = tensors.find(name);
  return found == tensors.end() ? nullptr : &found->second;
}

/// The LAYER of a name LAYER + suffix. It is empty for "qweight" with the suffix ".qweight", which is the name in a file of a
/// single layer.
std::optional<std::string> layer_before(std::string_view suffix, const std::string& name) {
  if (suffix.starts_with('.') && name == suffix.substr(1)) {
    return "";
  }
  return name.ends_with(suffix) ? std::optional(name.substr(0, name.size() - suffix.size())) : std::nullopt;
}

/// The tensor LAYER + suffix. layer_before describes the name for an empty LAYER.
const Tensor* find_in_layer(const TensorMap& tensors, const std::string& layer, std::string_view suffix) {
  return layer.empty() ? find(tensors, suffix.substr(suffix.starts_with('.') ? 1 : 0))
                       : find(tensors, fmt::format("{}{}", layer, suffix));
}

std::string evidence_of(std::string_view name, const Tensor& tensor) {
  return fmt::format("tensor {}, {} {}", in_quotes(name), tensor.type, printable(to_string(tensor.shape)));
}

Scheme scheme_of(std::string_view method, std::string evidence) {
  const auto* found =
      std::find_if(std::begin(known_schemes), std::end(known_schemes), [&](const KnownScheme& m) { return m.method == method; });
  if (found == std::end(known_schemes)) {
    return {in_quotes(method), std::move(evidence), std::string(start_again)};
  }
  return {std::string(found->name), std::move(evidence), std::string(found->remedy)};
}

/// Tells GPTQ from AWQ by shapes. GPTQ packs the codes of one output along K, in (K/8, N) words. AWQ packs the codes of one k
/// along N, in (K, N/8) words. The scales of both have shape (groups, N).
std::string_view method_of(const SchemeMark& mark, const TensorMap& tensors, const std::string& layer, const Tensor& qweight) {
  const Tensor* scales = find_in_layer(tensors, layer, ".scales");
  const bool along_outputs = mark.suffix == ".qweight" && scales != nullptr && !scales->shape.empty() && !qweight.shape.empty() &&
                             scales->shape.back() > qweight.shape.back();
  return along_outputs ? "awq" : mark.method;
}

std::optional<Scheme> scheme_of_tensor(const SchemeMark& mark, const TensorMap& tensors, const std::string& name,
                                       const Tensor& tensor) {
  const bool type_fits =
      mark.types == any_type || std::find(mark.types.begin(), mark.types.end(), tensor.type) != mark.types.end();
  const std::optional<std::string> layer = layer_before(mark.suffix, name);
  if (!type_fits || !layer || (!mark.companion.empty() && find_in_layer(tensors, *layer, mark.companion) == nullptr)) {
    return std::nullopt;
  }
  return scheme_of(method_of(mark, tensors, *layer, tensor), evidence_of(name, tensor));
}

std::optional<Scheme> scheme_of_tensors(const TensorMap& tensors) {
  for (const SchemeMark& mark : marks) {
    for (const auto& [name, tensor] : tensors) {
      if (auto scheme = scheme_of_tensor(mark, tensors, name, tensor)) {
        return scheme;
      }
    }
  }
  return std::nullopt;
}

/// True for NAME.weight of type uint32 that has NAME.scales beside it.
bool is_mlx_weight(const TensorMap& tensors, const std::string& name, const Tensor& tensor) {
  const std::optional<std::string> layer = layer_before(".weight", name);
  return tensor.type == "U32" && layer && find_in_layer(tensors, *layer, ".scales") != nullptr;
}

/// True for a matrix of at most eight bits per element that is not part of a weight in MLX's format.
bool may_be_packed(const TensorMap& tensors, const std::string& name, const Tensor& tensor) {
  const bool packed_type = tensor.type != "BOOL" && bits_of_type(tensor.type).value_or(0) <= 8;
  if (!packed_type || tensor.shape.size() < 2) {
    return false;
  }
  const std::optional<std::string> layer = layer_before(".scales", name);
  const Tensor* weight = layer ? find_in_layer(tensors, *layer, ".weight") : nullptr;
  return weight == nullptr || weight->type != "U32";
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
