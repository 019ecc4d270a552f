#include "io/expert_names.hpp"

#include "io/error.hpp"

#include <fmt/format.h>

#include <fnmatch.h>
#include <algorithm>
#include <cctype>
#include <charconv>
#include <map>
#include <optional>
#include <utility>

namespace gqmm::io {
namespace {

constexpr std::string_view remedy =
    "convert it first, with `mlx_lm convert --hf-path IN --mlx-path OUT`, and quantize the folder OUT";

/// How MLX names the experts of a model: BLOCK.experts.E.FROM.weight becomes BLOCK.switch_mlp.TO.weight. `layers` holds the pairs
/// of FROM and TO.
struct ExpertLayout {
  std::string_view model_type;
  std::string_view block;
  std::vector<std::pair<std::string_view, std::string_view>> layers;
};

const std::vector<ExpertLayout>& expert_layouts() {
  static const std::vector<std::pair<std::string_view, std::string_view>> same = {
      {"gate_proj", "gate_proj"}, {"up_proj", "up_proj"}, {"down_proj", "down_proj"}};
  static const std::vector<ExpertLayout> layouts = {
      {"qwen2_moe", "mlp", same},
      {"qwen3_moe", "mlp", same},
      {"olmoe", "mlp", same},
      {"mixtral", "block_sparse_moe", {{"w1", "gate_proj"}, {"w2", "down_proj"}, {"w3", "up_proj"}}},
  };
  return layouts;
}

/// Another name of Transformers, whose tensor mlx-lm splits, transposes or scales when it loads the model. If `model_types` is
/// empty, this holds for every model.
struct ForeignName {
  const char* glob;
  std::vector<std::string_view> model_types;
};

const std::vector<ForeignName>& foreign_names() {
  static const std::vector<ForeignName> names = {
      {"*.experts.gate_up_proj", {}},
      {"*.experts.down_proj", {}},
      {"*.experts.gate_up_proj.weight", {}},
      {"*.experts.mlp.*", {}},
      {"*.block_sparse_moe.input_linear.weight", {}},
      {"*.gate_and_up_proj.weight", {}},
      {"h.*.attn.c_attn.weight", {"gpt2"}},
      {"*.kv_b_proj.weight",
       {"bailing_hybrid", "bailing_moe_v3", "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "joyai_llm_flash", "kimi_k2",
        "kimi_k25", "kimi_k3", "kimi_linear", "longcat_flash", "longcat_flash_ngram", "mistral4"}},
  };
  return names;
}

/// The parts of a name PREFIX.experts.NUMBER.REST.
struct ExpertName {
  std::string prefix;
  std::size_t expert = 0;
  std::string rest;
};

std::optional<ExpertName> split_expert_name(const std::string& name) {
  constexpr std::string_view marker = ".experts.";
  const std::size_t at = name.find(marker);
  if (at == std::string::npos) {
    return std::nullopt;
  }
  ExpertName result = {name.substr(0, at), 0, ""};
  const char* begin = name.data() + at + marker.size();
  const char* end = name.data() + name.size();
  const auto [next, error] = std::from_chars(begin, end, result.expert);
  if (error != std::errc() || next == end || *next != '.') {
    return std::nullopt;
  }
  result.rest = std::string(next + 1, end);
  return result;
}

[[noreturn]] void refuse(std::string_view origin, const std::string& name, std::string_view what) {
  throw FileError(origin, fmt::format("tensor {}: {}; {}", in_quotes(name), what, remedy));
}

/// MLX's name for the layer that holds all experts. Returns nullopt if mlx-lm does not stack the experts of this model.
std::optional<std::string> stacked_name(const ExpertName& name, const ModelFacts& facts) {
  for (const ExpertLayout& layout : expert_layouts()) {
    if (layout.model_type != facts.type || !name.prefix.ends_with(fmt::format(".{}", layout.block))) {
      continue;
    }
    for (const auto& [from, to] : layout.layers) {
      if (name.rest == fmt::format("{}.weight", from)) {
        return fmt::format("{}.switch_mlp.{}.weight", name.prefix, to);
      }
    }
  }
  return std::nullopt;
}

SourceTensor stack(const std::string& name, const std::map<std::size_t, NamedTensor>& experts, std::string_view origin) {
  SourceTensor source = {name, {}, "", {}};
  for (const auto& [expert, part] : experts) {
    const Tensor& tensor = *part.tensor;
    if (expert != source.parts.size()) {
      throw FileError(origin, fmt::format("{} needs expert {}, which is missing before tensor {}; complete the checkpoint",
                                          in_quotes(name), source.parts.size(), in_quotes(part.name)));
    }
    if (source.parts.empty()) {
      source.type = tensor.type;
      source.shape = tensor.shape;
    } else if (tensor.type != source.type || tensor.shape != source.shape) {
      throw FileError(
          origin, fmt::format("tensor {} is {} {} where its first expert is {} {}; experts are stacked only if they "
                              "are alike",
                              in_quotes(part.name), tensor.type, to_string(tensor.shape), source.type, to_string(source.shape)));
    }
    source.parts.push_back(part);
  }
  source.shape.insert(source.shape.begin(), static_cast<std::int64_t>(source.parts.size()));
  return source;
}

void check_name(const std::string& name, const ModelFacts& facts, std::string_view origin) {
  for (const ForeignName& foreign : foreign_names()) {
    const auto& types = foreign.model_types;
    if (::fnmatch(foreign.glob, name.c_str(), 0) == 0 &&
        (types.empty() || std::find(types.begin(), types.end(), facts.type) != types.end())) {
      refuse(origin, name, "this is Transformers' name, and mlx-lm splits or transposes such a tensor when it loads the model");
    }
  }
}

/// Refuses a Falcon-H1 model in Transformers' order. mlx-lm multiplies the matrices of such a model by factors from config.json.
void check_falcon_h1(const TensorMap& tensors, const ModelFacts& facts, std::string_view origin) {
  const auto kernel = tensors.find("model.layers.0.mamba.conv1d.weight");
  if (facts.type == "falcon_h1" && kernel != tensors.end() && kernel->second.shape.size() == 3 &&
      kernel->second.shape[2] > kernel->second.shape[1]) {
    refuse(origin, kernel->first,
           "it lies in Transformers' order, and mlx-lm scales the matrices of such a model when it loads it");
  }
}

}  // namespace

std::uint64_t SourceTensor::nbytes() const noexcept {
  std::uint64_t total = 0;
  for (const NamedTensor& part : parts) {
    total += part.tensor->bytes.size();
  }
  return total;
}

std::vector<SourceTensor> in_mlx_names(const TensorMap& tensors, const ModelFacts& facts, std::string_view origin) {
  check_falcon_h1(tensors, facts, origin);
  std::vector<SourceTensor> sources;
  std::map<std::string, std::map<std::size_t, NamedTensor>> stacks;
  for (const auto& [name, tensor] : tensors) {
    check_name(name, facts, origin);
    const auto expert = split_expert_name(name);
    if (!expert) {
      sources.push_back({name, tensor.shape, tensor.type, {{name, &tensor}}});
      continue;
    }
    const auto stacked = stacked_name(*expert, facts);
    if (!stacked) {
      refuse(origin, name, "each expert has tensors of its own, as in Transformers' checkpoints, and MLX has one of all experts");
    }
    if (tensors.contains(*stacked)) {
      throw FileError(origin, fmt::format("tensors {} and {} are both there, and only one can hold the experts", in_quotes(name),
                                          in_quotes(*stacked)));
    }
    stacks[*stacked].emplace(expert->expert, NamedTensor{name, &tensor});
  }
  for (const auto& [name, parts] : stacks) {
    sources.push_back(stack(name, parts, origin));
    const std::int64_t found = sources.back().shape.front();
    if (!facts.experts) {
      throw FileError(origin, fmt::format("has {} experts in {}, and config.json has no num_experts to compare it with; complete "
                                          "config.json",
                                          found, in_quotes(name)));
    }
    if (found != *facts.experts) {
      throw FileError(origin, fmt::format("{} has {} experts where config.json has {}; complete the checkpoint", in_quotes(name),
                                          found, *facts.experts));
    }
  }
  std::sort(sources.begin(), sources.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  return sources;
}

}  // namespace gqmm::io
