#include "io/layer_rules.hpp"

#include <fmt/format.h>

#include <fnmatch.h>
#include <algorithm>
#include <cctype>
#include <vector>

namespace gqmm::io {
namespace {

constexpr std::string_view weight_suffix = ".weight";
constexpr int stays = 0;
constexpr int as_asked = -1;

/// What mlx-lm 0.32.2 decides for some layers of a model, in each model's `quant_predicate`. The first rule that fits counts.
struct ModelRule {
  const char* model_type;
  const char* layers;  // a glob
  int bits;            // `stays`, `as_asked`, or 8, which means affine in groups of 64
};

constexpr ModelRule model_rules[] = {
    {"Klear", "*mlp.gate", 8},
    {"afmoe", "*router.gate*", 8},
    {"bailing_hybrid", "*mlp.gate.gate_proj", 8},
    {"bailing_hybrid", "*attention.embed_q", stays},
    {"bailing_hybrid", "*attention.unembed_out", stays},
    {"bailing_moe", "*mlp.gate.gate_proj", 8},
    {"bailing_moe_linear", "*mlp.gate.gate_proj", 8},
    {"bailing_moe_v3", "model.word_embeddings", stays},
    {"bailing_moe_v3", "lm_head", stays},
    {"bailing_moe_v3", "*attention.*", stays},
    {"gemma4", "*router.proj", 8},
    {"gemma4_text", "*router.proj", 8},
    {"gemma4_unified", "*router.proj", 8},
    {"gpt_oss", "*router", 8},
    {"granite", "*self_attn.o_proj", 8},
    {"granite", "*mlp.down_proj", 8},
    {"granite", "lm_head", 8},
    {"granitemoe", "*block_sparse_moe.router.layer", 8},
    {"granitemoe", "*self_attn.o_proj", 8},
    {"granitemoe", "*mlp.down_proj", 8},
    {"granitemoe", "lm_head", 8},
    {"granitemoehybrid", "*router.layer", 8},
    {"iquestloopcoder", "*gate_projections*", stays},
    {"jamba", "*router", 8},
    {"kimi_k3", "*mlp.gate", 8},
    {"kimi_k3", "*res_proj", stays},
    {"kimi_linear", "*mlp.gate", 8},
    {"laguna", "*mlp.gate.proj", 8},
    {"lfm2_moe", "*feed_forward.gate", 8},
    {"longcat_flash", "*classifier", 8},
    {"longcat_flash_ngram", "*classifier", 8},
    {"mellum", "*mlp.gate", 8},
    {"minimax", "*block_sparse_moe.gate", 8},
    {"minimax_m2", "*block_sparse_moe.gate", 8},
    {"minimax_m3_vl", "*block_sparse_moe.gate", 8},
    {"muse_spark", "model.language_model.layers.0.*", stays},
    {"muse_spark", "model.language_model.layers.*.mlp.experts.*_proj", as_asked},
    {"muse_spark", "*", stays},
    {"qwen3_5", "*mlp.gate", 8},
    {"qwen3_5", "*shared_expert_gate", 8},
    {"qwen3_5_moe", "*mlp.gate", 8},
    {"qwen3_5_moe", "*shared_expert_gate", 8},
    {"qwen3_moe", "*mlp.gate", 8},
    {"qwen3_next", "*mlp.gate", 8},
    {"qwen3_next", "*shared_expert_gate", 8},
    {"qwen3_vl_moe", "*mlp.gate", 8},
    {"rwkv7", "*lora.2*", 8},
    {"rwkv7", "*embeddings*", 8},
    {"spark2_5", "*self_attn.g_proj", stays},
    {"step3p5", "*mlp.gate.gate*", 8},
};

const ModelRule* find_rule(const ModelFacts& facts, const std::string& layer) {
  const auto* found = std::find_if(std::begin(model_rules), std::end(model_rules), [&](const ModelRule& rule) {
    return facts.type == rule.model_type && ::fnmatch(rule.layers, layer.c_str(), 0) == 0;
  });
  return found == std::end(model_rules) ? nullptr : found;
}

std::vector<std::string> components_of(std::string_view layer) {
  std::vector<std::string> parts(1);
  for (const char c : layer) {
    if (c == '.') {
      parts.emplace_back();
    } else {
      parts.back() += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    }
  }
  return parts;
}

bool is_number(const std::string& text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isdigit(c) != 0; });
}

/// True if `word` is in `text` and no letter is before it. So "embed_positions" has the word "position", and "composition" does
/// not.
bool has_word(std::string_view text, std::string_view word) {
  for (std::size_t at = text.find(word); at != std::string_view::npos; at = text.find(word, at + 1)) {
    if (at == 0 || std::isalpha(static_cast<unsigned char>(text[at - 1])) == 0) {
      return true;
    }
  }
  return false;
}

/// The module's own name, which is the last component that is not a number.
const std::string& module_of(const std::vector<std::string>& components) {
  const auto found = std::find_if(components.rbegin(), components.rend(), [](const auto& part) { return !is_number(part); });
  return found == components.rend() ? components.back() : *found;
}

bool is_position_table(const std::string& module) {
  return module == "wpe" || module == "pe" || has_word(module + "_", "pos_") || has_word(module, "position") ||
         has_word(module, "rotary") || has_word(module, "rope") || has_word(module, "relative_attention");
}

bool is_router(const std::vector<std::string>& components) {
  return std::any_of(components.begin(), components.end(), [](const std::string& part) {
    return part == "gate" || part == "shared_expert_gate" || part.find("router") != std::string::npos;
  });
}

/// The reason why a tensor is not the matrix of a layer, as far as its name and shape tell. Empty if there is no such reason.
std::string reason_in_name(const std::vector<std::string>& components, const Shape& shape) {
  const std::string& module = module_of(components);
  if (module.find("norm") != std::string::npos || module == "ln" || module.starts_with("ln_")) {
    return "weights of a norm";
  }
  const bool of_experts = std::any_of(components.begin(), components.end(), [](const std::string& part) {
    return part.find("expert") != std::string::npos || part.find("switch") != std::string::npos;
  });
  constexpr std::int64_t widest_kernel = 7;
  if (module.find("conv") != std::string::npos || shape.size() > 3 ||
      (shape.size() == 3 && shape[1] <= widest_kernel && !of_experts)) {
    return "kernels of a convolution";
  }
  if (is_position_table(module)) {
    return "a table of positions";
  }
  return is_router(components) ? "a router" : "";
}

bool is_true(const nlohmann::json& config, const char* key) {
  const auto found = config.find(key);
  return found != config.end() && found->is_boolean() && found->get<bool>();
}

}  // namespace

ModelFacts facts_of(const nlohmann::json& config) {
  ModelFacts facts;
  if (!config.is_object()) {
    return facts;
  }
  if (const auto type = config.find("model_type"); type != config.end() && type->is_string()) {
    facts.type = type->get<std::string>();
  }
  for (const char* key : {"num_experts", "num_local_experts"}) {
    if (const auto count = config.find(key); count != config.end() && count->is_number()) {
      facts.experts = count->get<std::int64_t>();  // the number may be 4.0, which some tools write
    }
  }
  facts.tied_embeddings = is_true(config, "tie_word_embeddings");
  facts.normalizes_head = is_true(config, "norm_head");
  if (const auto text = config.find("text_config"); text != config.end() && text->is_object()) {
    facts.tied_embeddings = facts.tied_embeddings || is_true(*text, "tie_word_embeddings");
  }
  return facts;
}

LayerDecision decide_layer(const ModelFacts& facts, std::string_view name, const Shape& shape, bool lone_file) {
  const auto stay = [](std::string reason, bool forced = false) { return LayerDecision{false, forced, 0, std::move(reason)}; };
  if (shape.size() < 2) {
    return stay(fmt::format("{} dimension{}", shape.size(), shape.size() == 1 ? "" : "s"), true);
  }
  if (name.ends_with("bias") || name.ends_with("biases")) {
    return stay("a bias", true);
  }
  const std::string layer = layer_of(name);
  if (layer == name && (!lone_file || name.find('.') != std::string_view::npos)) {
    return stay("its name does not end in .weight");
  }
  if ((layer == "lm_head" || layer.ends_with(".lm_head")) && (facts.tied_embeddings || facts.normalizes_head)) {
    return stay(facts.tied_embeddings ? "tied to the embedding" : "the model normalizes it when it is loaded", true);
  }
  if (const ModelRule* rule = find_rule(facts, layer); rule != nullptr) {
    if (rule->bits == stays) {
      return stay(fmt::format("as mlx-lm leaves it in {}", facts.type));
    }
    return {.quantized = true, .forced = false, .bits = rule->bits == as_asked ? 0 : rule->bits, .reason = ""};
  }
  if (std::string reason = reason_in_name(components_of(layer), shape); !reason.empty()) {
    return stay(std::move(reason));
  }
  return {.quantized = true, .forced = false, .bits = 0, .reason = ""};
}

std::string layer_of(std::string_view name) {
  return std::string(name.ends_with(weight_suffix) ? name.substr(0, name.size() - weight_suffix.size()) : name);
}

}  // namespace gqmm::io
