// The gradient of gathered matrices, as a primitive of MLX with all transforms (MLX's segmented_mm has none).
#pragma once

#include <mlx/array.h>
#include <mlx/stream.h>

namespace mx = ::mlx::core;

namespace gqmm::mlx {

/// Σ a[p].T @ b[p] over the pairs p with indices[p] = e, for each e < count: (P, M, N), (P, M, K), (P,) → (count, N, K), in
/// float32. An index out of range is an error of the evaluation; `op` and `name` are what it calls the caller and the indices.
mx::array sum_of_products_by_index(const char* op, const char* name, const mx::array& a, const mx::array& b,
                                   const mx::array& indices, int count, mx::Stream s);

}  // namespace gqmm::mlx
