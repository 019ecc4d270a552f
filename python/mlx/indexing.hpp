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
mx::Shape operator+(mx::Shape a, const mx::Shape& b);

/// The index array, or what its absence stands for: 0, 1, … in the shape `leading` of the operand that it selects from.
mx::array explicit_indices(const std::optional<mx::array>& indices, const mx::Shape& leading, mx::Stream s);

/// The matrices of `pairs`, (shape of the pairs) + (M, K), each added to that matrix of a stack of shape `shape` which `indices`
/// selected for it.
mx::array sum_by_index(const mx::array& pairs, const mx::Shape& shape, const std::optional<mx::array>& indices, mx::Stream s);

/// Σ a[p].T @ b[p] over the pairs p with indices[p] = e, for each e < count: (P, M, N), (P, M, K), (P,) → (count, N, K), in
/// float32.
mx::array sum_of_products_by_index(const mx::array& a, const mx::array& b, const mx::array& indices, int count, mx::Stream s);

/// The axis moved to the front, followed by dimensions of 1 up to `rank`, then by the others.
mx::array batch_first(const mx::array& a, int axis, int rank, mx::Stream s);

}  // namespace gqmm::mlx
