#include "mlx_lm/model_shape.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <stdexcept>
#include <vector>

namespace gqmm::bench {

using json = nlohmann::ordered_json;

std::span<const ModelShape> known_models() {
  // With the models' own vocabularies, of 151,936 and 201,088 tokens, the head alone would be five times the work of a layer.
  static const std::vector<ModelShape> models = {
      {"qwen3-30b-a3b", "qwen3_moe", 1, 2048, 128, 8, 768, 32, 4, 128, 0, 256},
      {"gpt-oss-20b", "gpt_oss", 2, 2880, 32, 4, 2880, 64, 8, 64, 128, 256},
      {"qwen3-4b", "qwen3", 1, 2560, 0, 0, 9728, 32, 8, 128, 0, 256},
      {"qwen3-next-80b-a3b", "qwen3_next", 4, 2048, 512, 10, 512, 16, 2, 256, 0, 256, {4, 16, 32, 128, 128, 4}},
      {"nemotron-3-nano-30b-a3b", "nemotron_h", 4, 2688, 128, 6, 1856, 32, 2, 128, 0, 256, {4, 8, 64, 128, 64, 4}},
  };
  return models;
}

ModelShape model_from_name(std::string_view name) {
  std::vector<std::string> names;
  for (const ModelShape& model : known_models()) {
    if (model.name == name) {
      return model;
    }
    names.push_back(model.name);
  }
  throw std::invalid_argument(fmt::format("[bench mlx-lm] there is no model '{}'; use one of {}", name, fmt::join(names, ", ")));
}

void check(const ModelShape& shape) {
  constexpr std::int64_t group_size = 64;
  const auto must_be_multiple = [&](const char* option, std::int64_t value) {
    if (value % group_size != 0) {
      throw std::invalid_argument(fmt::format(
          "[bench mlx-lm] {} = {} is not a multiple of {}, the quantization's group; round it up", option, value, group_size));
    }
  };
  must_be_multiple("--hidden", shape.hidden);
  must_be_multiple("--width", shape.width);
  must_be_multiple("--heads times --head-dim", shape.heads * shape.head_dim);
  if (shape.top > shape.experts) {
    throw std::invalid_argument(fmt::format(
        "[bench mlx-lm] --top = {} exceeds --experts = {}; a token uses each expert once at most", shape.top, shape.experts));
  }
  if (shape.heads % shape.kv_heads != 0) {
    throw std::invalid_argument(
        fmt::format("[bench mlx-lm] --heads = {} is not a multiple of --kv-heads = {}; equally many heads share each of those",
                    shape.heads, shape.kv_heads));
  }
  if (shape.linear.attention_every > 0 && shape.layers % shape.linear.attention_every != 0) {
    const std::int64_t every = shape.linear.attention_every;
    throw std::invalid_argument(
        fmt::format("[bench mlx-lm] --layers = {} is not a multiple of {}, and every {}th layer of {} has attention; use {}",
                    shape.layers, every, every, shape.name, (shape.layers / every + 1) * every));
  }
  if (shape.window > 0 && shape.layers % 2 != 0) {
    throw std::invalid_argument(
        fmt::format("[bench mlx-lm] --layers = {} is odd, and every second layer of {} has a window; use {}", shape.layers,
                    shape.name, shape.layers + 1));
  }
}

namespace {

std::string linear_description_of(const json& linear) {
  const auto number = [&](const char* name) { return linear.at(name).get<std::int64_t>(); };
  if (number("attention_every") == 0) {
    return "";
  }
  return fmt::format(" in every {}th layer, else {} heads of keys and {} of values with states of {} x {}",
                     number("attention_every"), number("key_heads"), number("value_heads"), number("value_dim"),
                     number("key_dim"));
}

json to_json(const LinearLayers& linear) {
  return {{"attention_every", linear.attention_every},
          {"key_heads", linear.key_heads},
          {"value_heads", linear.value_heads},
          {"key_dim", linear.key_dim},
          {"value_dim", linear.value_dim},
          {"kernel", linear.kernel}};
}

}  // namespace

std::string description_of(const json& shape) {
  const auto number = [&](const char* name) { return shape.at(name).get<std::int64_t>(); };
  const std::string experts =
      number("experts") > 0 ? fmt::format("{} experts of width {}, top {}", number("experts"), number("width"), number("top"))
                            : fmt::format("dense layers of width {}", number("width"));
  const std::string window =
      number("window") > 0 ? fmt::format(", windows of {} in every second layer", number("window")) : std::string();
  return fmt::format("{} layer{}, hidden {}, {}, {} heads and {} of keys and values, {} wide{}{}; vocabulary {}",
                     number("layers"), number("layers") == 1 ? "" : "s", number("hidden"), experts, number("heads"),
                     number("kv_heads"), number("head_dim"), window, linear_description_of(shape.at("linear")),
                     number("vocabulary"));
}

json to_json(const ModelShape& shape) {
  return {{"name", shape.name},
          {"family", shape.family},
          {"layers", shape.layers},
          {"hidden", shape.hidden},
          {"experts", shape.experts},
          {"top", shape.top},
          {"width", shape.width},
          {"heads", shape.heads},
          {"kv_heads", shape.kv_heads},
          {"head_dim", shape.head_dim},
          {"window", shape.window},
          {"vocabulary", shape.vocabulary},
          {"linear", to_json(shape.linear)}};
}

}  // namespace gqmm::bench
