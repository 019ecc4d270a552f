// A case of the benchmark: the shape, types and settings of a product.
#pragma once

#include "formats/registry.hpp"
#include "plan/problem.hpp"

#include <gqmm/activation.hpp>
#include <gqmm/array.hpp>
#include <gqmm/types.hpp>

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace gqmm::bench {

/// One projection of a mixture-of-experts layer, or a whole one.
struct LayerShape {
  std::string name;
  std::int64_t experts = 0;
  std::int64_t N = 0;  // outputs
  std::int64_t K = 0;  // inputs
  std::int64_t top = 0;
  /// Whether each pair reads a row of x of its own, as in the down projection. In gate and up projections all experts of a token
  /// read the same row.
  bool row_per_pair = false;
  /// Whether this is a whole layer: gate and up (E, N, K), their activation, down (E, K, N) and the weighted sum. A call is
  /// moe_ffn then, else gather_qmm.
  bool whole = false;
  /// Whether the projections of a whole layer have biases, and its activation is gpt-oss's. Otherwise it is silu(gate) · up.
  bool gpt_oss = false;
  /// The number of experts of a whole layer that every token takes, beside `top` of the others. Each has N inner values.
  std::int64_t shared_experts = 0;

  /// The number of projections that a call computes.
  [[nodiscard]] int projections() const { return whole ? 3 : 1; }
  /// The activation of a whole layer.
  [[nodiscard]] SwiGLU activation() const;
};

/// Lists the projections that have names.
std::span<const LayerShape> known_shapes();
/// Lists the whole layers that have names.
std::span<const LayerShape> known_layers();
/// Returns the projection or the layer of this name. If there is none, throws std::invalid_argument, whose text lists the names.
const LayerShape& shape_from_name(std::string_view name);

/// The way in which the tokens of a case choose experts. Users call it the routing of a case.
enum class ExpertChoice {
  uniform,   ///< every token draws its experts at random, as in a layer without preferences
  balanced,  ///< every expert gets the same number of rows (± 1)
  learned,   ///< tokens prefer some experts as much as a trained model's router does (routing.hpp)
  half,      ///< one expert gets half of all rows, and the others share the rest as with uniform
  one,       ///< one expert gets all rows
};

std::string_view name_of(ExpertChoice routing);
ExpertChoice expert_choice_from_name(std::string_view name);

/// Returns the type of the name "float16", "bfloat16" or "float32". Throws std::invalid_argument for another name.
Dtype float_type_from_name(std::string_view name);

struct Case {
  LayerShape shape;
  std::int64_t tokens = 1;
  Mode mode = Mode::affine;
  int bits = 4;
  int group_size = 64;
  bool transpose = true;
  Dtype dtype = Dtype::bfloat16;
  Precision precision = Precision::standard;
  bool packed = false;
  ExpertChoice routing = ExpertChoice::uniform;
  int threads = 1;
  std::string isa;
  /// Whether every call reads the same weights. They stay in cache if they fit, so the case shows the other costs of a call.
  bool cached = false;

  [[nodiscard]] const detail::Format& format() const { return *detail::find_format(mode, bits); }
  /// Returns the weights without memory, as a plan needs them.
  [[nodiscard]] detail::WeightMatrices weights() const;
  /// Returns the number of tokens times the experts per token.
  [[nodiscard]] std::int64_t pairs() const { return tokens * shape.top; }
  /// Returns the number of additions and multiplications: 2 · pairs · N · K for each projection. A shared expert counts as one
  /// more pair for each token.
  [[nodiscard]] double operations() const;
  /// Returns the number of bytes of one expert's codes, scales and biases, in all projections.
  [[nodiscard]] double bytes_per_expert() const;
  /// Returns the number of bytes of so many experts and of the shared ones, which every call reads.
  [[nodiscard]] double bytes(double experts_hit) const;
  /// Returns the type of scales and biases. It is that of x for half types, and bfloat16 for float32, as in checkpoints.
  [[nodiscard]] Dtype scale_dtype() const { return dtype == Dtype::float32 ? Dtype::bfloat16 : dtype; }
  /// Whether the product is computed in int8 dot products. Otherwise it is computed in float32.
  [[nodiscard]] bool is_integer() const { return multiplies_integers(weights()); }
  /// Returns the number of slices of an activation. Each needs a dot product of its own, so a case reaches at most 1 / slices()
  /// of the int8-dot peak.
  [[nodiscard]] int slices() const;

  /// Returns for example "affine 4-bit g64".
  [[nodiscard]] std::string format_name() const;
  /// Returns for example "qwen3-30b-a3b/gate T=512 affine 4-bit g64 bfloat16 default in place uniform avx512vnni 1 thread".
  [[nodiscard]] std::string name() const;
};

}  // namespace gqmm::bench
