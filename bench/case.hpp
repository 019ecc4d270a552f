// What is measured: a product's shape, types and settings.
#pragma once

#include <gqmm/array.hpp>
#include <gqmm/types.hpp>

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace gqmm::bench {

/// One projection of a mixture-of-experts layer.
struct LayerShape {
  std::string name;
  std::int64_t experts = 0;
  std::int64_t N = 0;  // outputs
  std::int64_t K = 0;  // inputs
  std::int64_t top = 0;
  /// Gate and up projections read one row of x per token, shared by its experts; the down projection one per pair.
  bool row_per_pair = false;
};

/// The shapes that have names.
std::span<const LayerShape> known_shapes();
/// Throws std::invalid_argument, listing the names, if there is no such shape.
const LayerShape& shape_from_name(std::string_view name);

enum class Routing {
  uniform,   ///< every token draws its experts at random, as a layer without preferences would
  balanced,  ///< every expert gets the same number of rows (± 1)
  learned,   ///< tokens prefer some experts as much as a trained model's router does (routing.hpp)
  half,      ///< one expert gets half of all rows, the others share the rest as with uniform
  one,       ///< one expert gets all rows
};

std::string_view name_of(Routing routing);
Routing routing_from_name(std::string_view name);

/// "float16", "bfloat16" or "float32". Throws std::invalid_argument otherwise.
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
  Routing routing = Routing::uniform;
  int threads = 1;
  std::string isa;
  /// Every call reads the same weights, which stay in cache if they fit: what a call costs besides reading them.
  bool cached = false;

  /// Rows times experts per token.
  [[nodiscard]] std::int64_t pairs() const { return tokens * shape.top; }
  /// 2 · pairs · N · K.
  [[nodiscard]] double operations() const;
  /// Codes, scales and biases of one expert.
  [[nodiscard]] double bytes_per_expert() const;
  /// Of the scales (and biases): x's for half types, bfloat16, as checkpoints have it, for float32.
  [[nodiscard]] Dtype scale_dtype() const { return dtype == Dtype::float32 ? Dtype::bfloat16 : dtype; }
  /// Whether the product is computed in int8 dot products; in float32 otherwise.
  [[nodiscard]] bool is_integer() const { return mode != Mode::mxfp8 && transpose; }
  /// Dot products per product of a weight and an activation: a case reaches 1 / slices() of the int8-dot peak at best.
  [[nodiscard]] int slices() const;

  /// "affine 4-bit g64".
  [[nodiscard]] std::string format_name() const;
  /// "qwen3-30b-a3b/gate T=512 affine 4-bit g64 bfloat16 default in place uniform avx512 1 thread".
  [[nodiscard]] std::string name() const;
};

}  // namespace gqmm::bench
