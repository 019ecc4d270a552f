// quantized_scaled_dot_product_attention over arrays of MLX.
#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <optional>
#include <tuple>

namespace mx = ::mlx::core;

namespace gqmm::mlx {

/// Affine codes, scales and biases of keys or values.
using QuantizedHeads = std::tuple<mx::array, mx::array, mx::array>;

/// The arguments of attention besides q, keys and values.
struct QuantizedAttentionArguments {
  float scale = 1;
  bool causal = false;
  std::optional<mx::array> mask = {};
  std::optional<mx::array> origin = {};
  int group_size = 64;
  int bits = 8;
  mx::StreamOrDevice stream = {};
};

/// Makes attention as gqmm::quantized_scaled_dot_product_attention computes it. For another device than the CPU, and for types
/// that gqmm does not know, it makes the graph of MLX's functions that mlx-lm has; that ignores `origin`.
mx::array quantized_scaled_dot_product_attention(const mx::array& q, const QuantizedHeads& q_keys, const QuantizedHeads& q_values,
                                                 const QuantizedAttentionArguments& arguments);

}  // namespace gqmm::mlx
