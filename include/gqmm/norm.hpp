// Norms of rows.
#pragma once

#include <gqmm/array.hpp>
#include <gqmm/export.hpp>
#include <gqmm/stream.hpp>

#include <optional>

namespace gqmm {

/// Options of rms_norm and layer_norm.
struct GQMM_API NormOptions {
  Stream stream = {};             ///< where the operator runs, and with how many threads
  std::optional<array> out = {};  ///< memory for the result, as in GatherQmmOptions
};

/// Divides each row by its root mean square, as mx.fast.rms_norm does: y = x / √(mean(x²) + eps) · weight.
///
/// x: (…, D), float16, bfloat16 or float32, of any strides. weight: (D,), likewise; without it, ones. eps: not negative.
///
/// Result: the shape of x, and the type to which x and weight promote. All arithmetic is in float32, and the result is rounded
/// once. A row has the same bits in any batch, with any number of threads and on every instruction set.
/// docs/reference/numerics.md states the order of operations and the error bound.
///
/// Throws std::invalid_argument before anything is written. The message names the operation, the values and a remedy.
GQMM_API array rms_norm(const array& x, const std::optional<array>& weight, float eps, const NormOptions& options = {});

/// Subtracts the mean from each row and divides by the standard deviation, as mx.fast.layer_norm does:
/// y = (x − mean(x)) / √(mean((x − mean(x))²) + eps) · weight + bias.
///
/// x: (…, D), float16, bfloat16 or float32, of any strides. weight, bias: (D,), likewise; without them, ones and zeros. eps: not
/// negative.
///
/// Result: the shape of x, and the type to which x, weight and bias promote. All arithmetic is in float32, and the result is
/// rounded once. A row has the same bits in any batch, with any number of threads and on every instruction set.
/// docs/reference/numerics.md states the order of operations and the error bound.
///
/// Throws std::invalid_argument before anything is written. The message names the operation, the values and a remedy.
GQMM_API array layer_norm(const array& x, const std::optional<array>& weight, const std::optional<array>& bias, float eps,
                          const NormOptions& options = {});

}  // namespace gqmm
