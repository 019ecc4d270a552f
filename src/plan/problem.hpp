// One product after validation, in the form that the API gives to a backend. Nothing below the API checks input again.
#pragma once

#include "arrays/matrix_batch.hpp"
#include "plan/weight_matrices.hpp"

#include <gqmm/types.hpp>

#include <cstdint>
#include <span>

namespace gqmm::detail {

/// y[i, m, n] = Σ_k x[lhs[i], m, k] · ŵ[rhs[i], n, k]   (transpose; else ŵ[rhs[i], k, n])
struct Problem {
  std::int64_t M = 0;
  std::int64_t N = 0;
  std::int64_t K = 0;

  MatrixBatch x;  // (lhs count, M, K), a compute float
  WeightMatrices weights;

  // The pairs. The result has one matrix for each pair. A pair without an expert has no_expert (plan/routing.hpp) in both.
  std::span<const std::int64_t> lhs;
  std::span<const std::int64_t> rhs;
  bool sorted = false;  // true if rhs is known to ascend

  // The result: (pairs, M, N), row-major, of a compute float type.
  std::byte* y = nullptr;
  Dtype y_dtype = Dtype::float32;

  int slices = 3;   // 8-bit slices of an activation, 1, 2 or 3; used if the weights multiply as integers
  int threads = 0;  // 0 means as many as available
};

/// The number of 8-bit slices of an activation, for a result of type `result`.
constexpr int slices_for(Precision precision, Dtype result) {
  switch (precision) {
    case Precision::fast: return 1;
    case Precision::float32: return 3;
    case Precision::standard: break;
  }
  return result == Dtype::float32 ? 3 : 2;
}

}  // namespace gqmm::detail
