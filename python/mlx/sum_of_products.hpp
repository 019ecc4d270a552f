// The gradient of gathered matrices, as a primitive of MLX. It has all transforms, which MLX's segmented_mm does not have.
#pragma once

#include <mlx/array.h>
#include <mlx/stream.h>

namespace mx = ::mlx::core;

namespace gqmm::mlx {

/// Makes y[e] = Σ a[p].T @ b[p] over the pairs p with indices[p] = e, for each e < count, in float32. Shapes are (P, M, N) for a,
/// (P, M, K) for b, (P,) for the indices and (count, N, K) for y. The evaluation fails if an index is out of range. The error
/// calls the caller `op` and the indices `name`.
mx::array sum_of_products_by_index(const char* op, const char* name, const mx::array& a, const mx::array& b,
                                   const mx::array& indices, int count, mx::Stream s);

}  // namespace gqmm::mlx
