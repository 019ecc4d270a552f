// Calls MLX's own functions whose signatures differ between versions of MLX. python/build_backend/mlx_versions.py lists the
// versions that this extension can be built for. The other files need no knowledge of the version.
#pragma once

#include "attention.hpp"
#include "functions.hpp"

#include <mlx/fast.h>
#include <mlx/ops.h>
#include <mlx/version.h>

#include <stdexcept>
#include <type_traits>

namespace gqmm::mlx {

/// Calls mx::gather_qmm, which takes a global scale since MLX 0.32.3. With an earlier version, throws std::invalid_argument if
/// there is a global scale.
inline mx::array stock_gather_qmm(const mx::array& x, const QuantizedArguments& a) {
#if MLX_VERSION_NUMERIC >= 32003
  return mx::gather_qmm(x, a.w, a.scales, a.biases, a.lhs_indices, a.rhs_indices, a.transpose, a.group_size, a.bits, a.mode,
                        a.global_scale, a.sorted_indices, a.stream);
#else
  if (a.global_scale) {
    throw std::invalid_argument(
        "[gather_qmm] MLX's own function, which serves this call, takes no global_scale before MLX 0.32.3; multiply the result "
        "by it, or call on the CPU in a mode and type of gqmm");
  }
  return mx::gather_qmm(x, a.w, a.scales, a.biases, a.lhs_indices, a.rhs_indices, a.transpose, a.group_size, a.bits, a.mode,
                        a.sorted_indices, a.stream);
#endif
}

/// Calls function(argument), or function() if it takes no argument.
template <class Function, class Argument>
mx::array call_with_or_without(const Function& function, Argument argument) {
  if constexpr (std::is_invocable_v<Function, Argument>) {
    return function(argument);
  } else {
    return function();
  }
}

/// Calls mx::fast::scaled_dot_product_attention. Some versions of MLX have an argument more, which asks for their fused kernels.
inline mx::array stock_attention(const mx::array& q, const mx::array& k, const mx::array& v, const AttentionArguments& a) {
  const char* const mode = a.causal ? "causal" : "";
  const auto call = [&](auto... fused) -> decltype(mx::fast::scaled_dot_product_attention(q, k, v, a.scale, mode, a.mask, a.sinks,
                                                                                          fused..., a.stream)) {
    return mx::fast::scaled_dot_product_attention(q, k, v, a.scale, mode, a.mask, a.sinks, fused..., a.stream);
  };
  return call_with_or_without(call, a.force_fused);
}

}  // namespace gqmm::mlx
