// The gradients of one product, validated and resolved: what the API hands to a backend.
#pragma once

#include "arrays/matrix_batch.hpp"
#include "plan/problem.hpp"

#include <cstdint>

namespace gqmm::detail {

/// Where a gradient goes: row-major memory of a compute float. No memory: the gradient is not wanted.
struct GradientMemory {
  std::byte* data = nullptr;
  Dtype dtype = Dtype::float32;

  [[nodiscard]] bool wanted() const noexcept { return data != nullptr; }
};

/// With G[e, k, n] = Σ x[lhs[i], m, k] · dy[i, m, n] over the pairs i with rhs[i] = e and their rows m:
///
///     dx[l, m, k]  = Σ dy[i, m, n] · ŵ[rhs[i], n, k] over n and over the pairs i with lhs[i] = l
///     weights      = G, of dense weights
///     scales       = Σ G · code over the group, biases = Σ G over the group, of affine weights
struct GradientProblem {
  /// x and the weights are there as far as the gradients need them: x for those of weights, the weights' codes for x's and for
  /// scales. It has no y.
  Problem product;
  MatrixBatch dy;  // (pairs, M, N), a compute float, rows without gaps
  std::int64_t x_matrices = 0;
  GradientMemory x;        // (x_matrices, M, K)
  GradientMemory weights;  // dense: (experts, K, N)
  GradientMemory scales;   // (experts, N, groups), or (experts, K, groups) of weights with rows along n
  GradientMemory biases;   // likewise
};

}  // namespace gqmm::detail
