// One product, validated and resolved: what the API hands to a backend. Nothing below the API checks input again.
#pragma once

#include "formats/format.hpp"
#include "plan/matrix_batch.hpp"

#include <gqmm/packed_weights.hpp>

#include <cstdint>
#include <span>

namespace gqmm {

/// y[i, m, n] = Σ_k x[lhs[i], m, k] · ŵ[rhs[i], n, k]   (transpose; else ŵ[rhs[i], k, n])
struct Problem {
  std::int64_t M = 0;
  std::int64_t N = 0;
  std::int64_t K = 0;

  MatrixBatch x;  // (lhs count, M, K), a compute float

  // Weights: exactly one of three. Quantized in place: format, w, scales (biases, global_scale). Quantized and packed: format,
  // packed. Dense (gather_mm): no format; w is (experts, K, N) of a compute float.
  const Format* format = nullptr;
  int group_size = 0;
  bool transpose = true;
  MatrixBatch w;  // uint32 words
  MatrixBatch scales;
  MatrixBatch biases;        // empty without biases
  MatrixBatch global_scale;  // float32 (experts, 1, 1); empty without one
  const PackedWeights::Data* packed = nullptr;

  // The pairs: as many as the result has matrices.
  std::span<const std::int64_t> lhs;
  std::span<const std::int64_t> rhs;
  bool sorted = false;  // rhs ascends

  // (pairs, M, N), row-major, a compute float.
  std::byte* y = nullptr;
  Dtype y_dtype = Dtype::float32;

  int slices = 3;   // 8-bit slices per activation: 1, 2 or 3
  int threads = 0;  // 0: as many as available
};

/// nvfp4's global scale turned into the factor of its E4M3 scales, as mlx.core.dequantize computes it.
inline float nvfp4_scale_factor(float global_scale) { return global_scale / (448.0F * 6.0F); }

}  // namespace gqmm
