// Softmax along axes of an array.
#pragma once

#include <gqmm/array.hpp>
#include <gqmm/export.hpp>
#include <gqmm/stream.hpp>

#include <optional>
#include <vector>

namespace gqmm {

/// Options of softmax.
struct GQMM_API SoftmaxOptions {
  Stream stream = {};             ///< where the operator runs, and with how many threads
  std::optional<array> out = {};  ///< memory for the result, as in GatherQmmOptions
};

/// Turns numbers into positive ones whose sum is 1, as mx.softmax does: y = e^x / Σ e^x, where the sum runs over the axes.
///
/// x: float16, bfloat16 or float32, of any strides and at least one dimension. axes: different dimensions of x; negative ones
/// count from the last.
///
/// Result: the shape and type of x. All arithmetic is in float32, as with precise=True in MLX, and the result is rounded once.
/// The elements that are summed have the same bits in any batch, with any number of threads and on every instruction set. If all
/// of them are -Inf, or one is +Inf or NaN, their results are NaN. docs/reference/numerics.md states the order of operations and
/// the error bound.
///
/// Throws std::invalid_argument before anything is written. The message names the operation, the values and a remedy.
GQMM_API array softmax(const array& x, const std::vector<int>& axes = {-1}, const SoftmaxOptions& options = {});

}  // namespace gqmm
