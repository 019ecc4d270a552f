// Calls MLX's own functions whose signatures differ between versions of MLX. python/build_backend/mlx_versions.py lists the
// versions that this extension can be built for. The other files need no knowledge of the version.
#pragma once

#include "functions.hpp"

#include <mlx/ops.h>
#include <mlx/version.h>

#include <stdexcept>

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

}  // namespace gqmm::mlx
