// The shapes of language models that `gqmm bench mlx-lm` measures.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace gqmm::bench {

/// The layers that have a state in the place of keys and values. Every `attention_every`th layer has attention all the same. A
/// model without such layers has zeros.
struct LinearLayers {
  std::int64_t attention_every = 0;
  std::int64_t key_heads = 0;
  std::int64_t value_heads = 0;
  std::int64_t key_dim = 0;  ///< of a head; a head of values has value_dim rows of so many elements as its state
  std::int64_t value_dim = 0;
  std::int64_t kernel = 0;  ///< tokens that the convolution before it sees

  bool operator==(const LinearLayers&) const = default;
};

struct ModelShape {
  std::string name;
  std::string family;  ///< the module of mlx_lm.models: qwen3_moe, gpt_oss, qwen3, qwen3_next or nemotron_h
  std::int64_t layers = 1;
  std::int64_t hidden = 0;
  std::int64_t experts = 0;  ///< 0 for a dense model
  std::int64_t top = 0;
  std::int64_t width = 0;  ///< of an expert, or of a dense layer
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t window = 0;  ///< of every second layer's attention; 0 for a model without windows
  std::int64_t vocabulary = 0;
  LinearLayers linear = {};

  bool operator==(const ModelShape&) const = default;
};

/// The models whose layers are measured: Qwen3-30B-A3B, gpt-oss-20b, Qwen3-4B, Qwen3-Next-80B-A3B and Nemotron-3-Nano-30B-A3B.
/// They have as few layers as the model can have (two with windows, attention_every with linear layers, else one) and a
/// vocabulary of 256. Nemotron's own layers of attention have no experts; here all layers have them.
std::span<const ModelShape> known_models();
/// Returns the known model of this name. Throws std::invalid_argument for another name.
ModelShape model_from_name(std::string_view name);
/// Throws std::invalid_argument for a shape whose numbers contradict each other.
void check(const ModelShape& shape);
/// Describes a shape in one line.
std::string description_of(const nlohmann::ordered_json& shape);
nlohmann::ordered_json to_json(const ModelShape& shape);

}  // namespace gqmm::bench
