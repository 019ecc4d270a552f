// scaled_dot_product_attention over arrays of MLX.
#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <optional>
#include <string>

namespace mx = ::mlx::core;

namespace gqmm::mlx {

/// The arguments of attention besides q, k and v.
struct AttentionArguments {
  float scale = 1;
  bool causal = false;
  std::optional<mx::array> mask = {};
  std::optional<mx::array> sinks = {};
  std::optional<mx::array> origin = {};
  bool force_fused = false;  // MLX's function decides what that means
  mx::StreamOrDevice stream = {};
};

/// Makes attention as gqmm::scaled_dot_product_attention computes it. It calls MLX's function for another device than the CPU,
/// for types and ranks that gqmm does not know, and for force_fused; that function ignores `origin`.
mx::array scaled_dot_product_attention(const mx::array& q, const mx::array& k, const mx::array& v,
                                       const AttentionArguments& arguments);

}  // namespace gqmm::mlx
