// grouped_qmm, grouped_mm and moe_combine over arrays of MLX.
#pragma once

#include "functions.hpp"

#include <gqmm/types.hpp>

#include <mlx/array.h>
#include <mlx/utils.h>

namespace mx = ::mlx::core;

namespace gqmm::mlx {

/// Makes y[r] = x[r] @ ŵ[e].T for the rows r of each group, as gqmm::grouped_qmm does. The offsets are checked when the result is
/// evaluated. Of the arguments, the indices are not read.
mx::array grouped_qmm(const mx::array& x, const QuantizedArguments& weights, const mx::array& offsets, Missing rows);
/// The same over dense matrices b, (E, K, N).
mx::array grouped_mm(const mx::array& x, const mx::array& b, const mx::array& offsets, Missing rows, mx::StreamOrDevice stream);

/// Makes the weighted sum of each token's slots, as gqmm::moe_combine does.
mx::array moe_combine(const mx::array& slots, const mx::array& topk_weights, mx::StreamOrDevice stream);

}  // namespace gqmm::mlx
