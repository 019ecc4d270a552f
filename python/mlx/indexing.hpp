// The index arithmetic of the transforms, as graphs of MLX.
#pragma once

#include <mlx/array.h>
#include <mlx/stream.h>

#include <optional>

namespace mx = ::mlx::core;

namespace gqmm::mlx {

/// The shape of a stack of matrices without the last two dimensions.
mx::Shape leading_shape(const mx::array& a);
/// The number of elements.
int count_of(const mx::Shape& shape);
mx::Shape concatenate(mx::Shape a, const mx::Shape& b);

/// The index array, or what its absence stands for: 0, 1, … in the shape `leading` of the operand that it selects from.
mx::array explicit_indices(const std::optional<mx::array>& indices, const mx::Shape& leading, mx::Stream s);

/// The positions as they are, (P,), once their evaluation has found each to lie in 0 … count − 1; MLX's scatter, take and sort by
/// position do not look. `op` and `name` are what an error calls the caller and the array.
mx::array checked_indices(const char* op, const char* name, const mx::array& positions, int count, mx::Stream s);

/// Sums over the dimensions along which `shape` was broadcast to a's.
mx::array sum_over_broadcast(const mx::array& a, const mx::Shape& shape, mx::Stream s);

/// The matrices of `pairs`, (shape of the pairs) + (M, K), each added to that matrix of a stack of shape `shape` which `indices`
/// (valid positions, in the shape of the pairs) selected for it; without indices they were broadcast.
mx::array sum_by_index(const mx::array& pairs, const mx::Shape& shape, const std::optional<mx::array>& indices, mx::Stream s);

/// 0, count, 2 · count, … for `batch` stacks of `count` matrices, int64.
mx::array batch_offsets(int batch, int count, mx::Stream s);

/// The axis moved to the front, followed by dimensions of 1 up to `rank`, then by the others.
mx::array batch_first(const mx::array& a, int axis, int rank, mx::Stream s);

}  // namespace gqmm::mlx
