// The index arithmetic of the transforms. The functions build graphs of MLX.
#pragma once

#include <mlx/array.h>
#include <mlx/stream.h>

#include <optional>

namespace mx = ::mlx::core;

namespace gqmm::mlx {

/// Returns the shape of a stack of matrices without the last two dimensions.
mx::Shape leading_shape(const mx::array& a);
/// Returns the number of elements.
int count_of(const mx::Shape& shape);
mx::Shape concatenate(mx::Shape a, const mx::Shape& b);

/// Returns the index array. If there is none, returns 0, 1, … in the shape `leading`, the leading dimensions of the operand.
mx::array explicit_indices(const std::optional<mx::array>& indices, const mx::Shape& leading, mx::Stream s);

/// Returns the positions as int64, in their own shape. Their evaluation fails if one does not lie in 0 … count − 1. The check is
/// needed because MLX's scatter, take and sort by position have none. An error calls the caller `op` and the array `name`.
mx::array checked_indices(const char* op, const char* name, const mx::array& positions, int count, mx::Stream s);

/// Sums over the dimensions along which `shape` was broadcast to the shape of `a`.
mx::array sum_over_broadcast(const mx::array& a, const mx::Shape& shape, mx::Stream s);

/// Returns a stack of matrices of shape `shape`, each the sum of the matrices of some pairs. `pairs` has the shape
/// (shape of the pairs) + (M, K). `indices` has the shape of the pairs and says which matrix of the stack each pair is added to.
/// Its positions must be valid. Without indices, the sums are over the dimensions along which the stack was broadcast.
mx::array sum_by_index(const mx::array& pairs, const mx::Shape& shape, const std::optional<mx::array>& indices, mx::Stream s);

/// Returns 0, count, 2 · count, … as int64: the first position of each of `batch` stacks of `count` matrices.
mx::array batch_offsets(int batch, int count, mx::Stream s);

/// Moves the axis to the front. Dimensions of 1 follow it, so that the other dimensions become `rank` dimensions.
mx::array batch_first(const mx::array& a, int axis, int rank, mx::Stream s);

}  // namespace gqmm::mlx
