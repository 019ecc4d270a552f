// Random tokens, owner maps and layers for tests of experts on several ranks.
#pragma once

#include "api_test_support.hpp"

#include <algorithm>
#include <numeric>
#include <optional>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

namespace gqmm::test {

/// The tokens of a rank.
struct Rank {
  array x;             // (T, H)
  array topk_ids;      // (T, k)
  array topk_weights;  // (T, k)
};

/// A layer of experts as moe_ffn takes it.
struct Layer {
  ExpertWeights gate;
  std::optional<ExpertWeights> up;
  ExpertWeights down;
  MoeFfnOptions options;
};

/// The matrices of these experts.
inline array part_of(const array& a, const std::vector<std::int64_t>& experts) {
  Shape shape = a.shape();
  shape.front() = static_cast<std::int64_t>(experts.size());
  array result = array::empty(shape, a.dtype());
  std::byte* to = result.mutable_bytes();
  for (const std::int64_t expert : experts) {
    to = std::copy_n(a.bytes() + expert * a.stride(0), a.stride(0), to);
  }
  return result;
}

inline std::optional<array> part_of(const std::optional<array>& a, const std::vector<std::int64_t>& experts) {
  return a ? std::optional(part_of(*a, experts)) : std::nullopt;
}

inline QuantizedWeights part_of(const QuantizedWeights& weights, const std::vector<std::int64_t>& experts) {
  QuantizedWeights part = weights;
  part.w = part_of(weights.w, experts);
  part.scales = part_of(weights.scales, experts);
  part.biases = part_of(weights.biases, experts);
  part.global_scale = part_of(weights.global_scale, experts);
  return part;
}

/// The same of an array or of quantized weights, packed if `packed` says so.
inline ExpertWeights part_of(const ExpertWeights& weights, const std::vector<std::int64_t>& experts, bool packed) {
  if (const auto* const dense = std::get_if<array>(&weights)) {
    return part_of(*dense, experts);
  }
  const QuantizedWeights part = part_of(std::get<QuantizedWeights>(weights), experts);
  return packed ? ExpertWeights(pack(part)) : ExpertWeights(part);
}

/// The layer with these experts alone.
inline Layer part_of(const Layer& layer, const std::vector<std::int64_t>& experts, bool packed) {
  Layer part = layer;
  part.gate = part_of(layer.gate, experts, packed);
  if (layer.up) {
    part.up = part_of(*layer.up, experts, packed);
  }
  part.down = part_of(layer.down, experts, packed);
  for (auto bias : {&MoeFfnOptions::gate_bias, &MoeFfnOptions::up_bias, &MoeFfnOptions::down_bias}) {
    part.options.*bias = part_of(layer.options.*bias, experts);
  }
  return part;
}

class RandomRanks {
 public:
  explicit RandomRanks(unsigned seed) : engine_(seed), values_(seed) {}

  int below(int limit) { return std::uniform_int_distribution<int>(0, limit - 1)(engine_); }
  template <class T>
  T one_of(std::initializer_list<T> values) {
    return *(values.begin() + below(static_cast<int>(values.size())));
  }
  array normal(const Shape& shape, Dtype dtype) { return values_.normal(shape, dtype); }
  Dtype compute_float() { return one_of({Dtype::float32, Dtype::float16, Dtype::bfloat16}); }

  /// Owner maps of every kind.
  ExpertOwners owners(std::int64_t E, int ranks) {
    switch (below(5)) {
      case 0: return ExpertOwners::contiguous(E, ranks);
      case 1: return ExpertOwners::round_robin(E, ranks);
      case 2: {  // all to one rank
        return ExpertOwners(int64s({E}, std::vector<std::int64_t>(static_cast<std::size_t>(E), below(ranks))));
      }
      case 3: {
        std::vector<std::int64_t> counts;
        for (std::int64_t e = 0; e < E; ++e) {
          counts.push_back(below(1000));
        }
        return ExpertOwners::by_load(int64s({E}, counts), ranks, below(20));
      }
      default: {  // any replicas
        std::vector<std::vector<int>> replicas(static_cast<std::size_t>(E));
        for (std::vector<int>& of : replicas) {
          std::vector<int> all(static_cast<std::size_t>(ranks));
          std::iota(all.begin(), all.end(), 0);
          std::shuffle(all.begin(), all.end(), engine_);
          of.assign(all.begin(), all.begin() + 1 + below(std::min(ranks, 4)));
        }
        return ExpertOwners(replicas);
      }
    }
  }

  /// A rank with T tokens. Some ids are negative; at times all tokens choose one expert.
  Rank rank(std::int64_t T, std::int64_t k, std::int64_t H, int E, Dtype x = Dtype::float32, Dtype weights = Dtype::float32) {
    const bool one = below(6) == 0;
    const int hot = below(E);
    std::vector<std::int64_t> ids;
    for (std::int64_t i = 0; i < T * k; ++i) {
      ids.push_back(below(8) == 0 ? -1 - below(3) : one ? hot : below(E));
    }
    return {normal({T, H}, x), int64s({T, k}, ids), normal({T, k}, weights)};
  }

  /// Weights of any format, in place; `leading` is empty for those of shared experts.
  ExpertWeights weights(const Shape& leading, std::int64_t N, std::int64_t K) {
    const int kind = below(5);
    if (kind == 0) {
      Shape shape = leading;
      shape.push_back(N);
      shape.push_back(K);
      return normal(shape, compute_float());
    }
    const auto [mode, bits, group_size] = one_of({std::tuple(Mode::affine, 4, 32), std::tuple(Mode::affine, 8, 32),
                                                  std::tuple(Mode::mxfp4, 4, 32), std::tuple(Mode::nvfp4, 4, 16)});
    QuantizedWeights weights =
        random_weights(values_, *find_format(mode, bits), group_size, below(4) != 0, leading, N, K, compute_float());
    if (mode == Mode::nvfp4) {
      weights.global_scale = normal(leading, Dtype::float32);
    }
    return weights;
  }

  /// A layer of E experts with any options that a divided layer takes; shared experts without their scale.
  Layer layer(std::int64_t E, std::int64_t H, std::int64_t I) {
    const Activation activation = any_activation();
    const bool both = is_gated(activation) && below(2) == 0;
    const std::int64_t gate_outputs = both ? 2 * I : I;
    Layer layer = {.gate = weights({E}, gate_outputs, H),
                   .up = {},
                   .down = weights({E}, H, I),
                   .options = {.activation = activation,
                               .gate_up_order = one_of({GateUpOrder::gate_up, GateUpOrder::up_gate, GateUpOrder::interleaved}),
                               .precision = one_of({Precision::standard, Precision::fast, Precision::float32})}};
    if (is_gated(activation) && !both) {
      layer.up = weights({E}, I, H);
    }
    if (below(2) == 0) {
      layer.options.gate_bias = normal({E, gate_outputs}, compute_float());
      layer.options.down_bias = normal({E, H}, compute_float());
    }
    if (below(2) == 0) {
      layer.options.shared = shared(activation, H, I);
    }
    return layer;
  }

 private:
  /// In two or three dimensions, packed or not.
  ExpertWeights shared_weights(std::int64_t N, std::int64_t K) {
    ExpertWeights of = weights(below(3) == 0 ? Shape{1} : Shape{}, N, K);
    const auto* const quantized = std::get_if<QuantizedWeights>(&of);
    return quantized != nullptr && below(2) == 0 ? ExpertWeights(pack(*quantized)) : of;
  }

  Activation any_activation() {
    return one_of<Activation>({SwiGLU(), SwiGLU{.alpha = 1.7F, .limit = 7.0F, .bias = 1.0F}, GELU(), ReLU2()});
  }

  /// Shared experts of a layer with this activation, or with one of their own.
  SharedExperts shared(const Activation& of_layer, std::int64_t H, std::int64_t I) {
    const std::optional<Activation> own = below(3) == 0 ? std::optional(any_activation()) : std::nullopt;
    const Activation activation = own.value_or(of_layer);
    const bool both = is_gated(activation) && below(2) == 0;
    const std::int64_t gate_outputs = both ? 2 * I : I;
    SharedExperts shared = {.gate = shared_weights(gate_outputs, H), .down = shared_weights(H, I)};
    shared.activation = own;
    if (is_gated(activation) && !both) {
      shared.up = shared_weights(I, H);
    }
    if (below(2) == 0) {
      shared.gate_bias = normal({gate_outputs}, compute_float());
      shared.down_bias = normal({1, H}, compute_float());
    }
    return shared;
  }

  std::mt19937 engine_;
  Generator values_;
};

/// A layer divided over ranks, and the tokens of each.
struct DividedLayer {
  ExpertOwners owners;
  Layer whole;
  std::vector<Rank> tokens;
  std::vector<std::optional<array>> shared_scales;

  /// The rank's part of the layer.
  [[nodiscard]] ExpertLayer part(const std::shared_ptr<DispatchEngine>& engine, bool packed, int chunks = 0) const {
    Layer held = part_of(whole, owners.experts_of(engine->rank()), packed);
    return {engine, std::move(held.gate), std::move(held.up), std::move(held.down), owners, std::move(held.options), chunks};
  }
  /// What the rank computes.
  [[nodiscard]] array divided(const ExpertLayer& layer, int rank) const {
    const auto at = static_cast<std::size_t>(rank);
    return layer(tokens[at].x, tokens[at].topk_ids, tokens[at].topk_weights, shared_scales[at]);
  }
  /// What one rank with all experts computes for those tokens.
  [[nodiscard]] array expected(int rank) const {
    const auto at = static_cast<std::size_t>(rank);
    MoeFfnOptions options = whole.options;
    options.missing = Missing::zero;
    if (options.shared) {
      options.shared->scale = shared_scales[at];
    }
    return moe_ffn(tokens[at].x, tokens[at].topk_ids, tokens[at].topk_weights, whole.gate, whole.up, whole.down, options);
  }
};

inline DividedLayer random_divided_layer(unsigned seed, int ranks) {
  RandomRanks random(seed);
  const int E = 1 + random.below(12);
  const std::int64_t k = 1 + random.below(4);
  const std::int64_t H = 32 * (1 + random.below(2));
  const std::int64_t I = 32 * (1 + random.below(3));
  const Dtype dtype = random.compute_float();
  const Dtype weights_dtype = random.compute_float();
  const Dtype scale_dtype = random.compute_float();
  DividedLayer divided = {.owners = random.owners(E, ranks), .whole = random.layer(E, H, I), .tokens = {}, .shared_scales = {}};
  for (int rank = 0; rank < ranks; ++rank) {
    const std::int64_t T = random.below(3) == 0 ? 0 : random.below(9);
    divided.tokens.push_back(random.rank(T, k, H, E, dtype, weights_dtype));
    std::optional<array> scale;
    if (divided.whole.options.shared && random.below(2) == 0) {
      scale = random.normal(random.below(2) == 0 ? Shape{T, 1} : Shape{T}, scale_dtype);
    }
    divided.shared_scales.push_back(scale);
  }
  return divided;
}

}  // namespace gqmm::test
