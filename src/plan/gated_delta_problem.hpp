// The problem of the gated delta rule, as the API hands it down.
#pragma once

#include "arrays/matrix_batch.hpp"

#include <cstddef>
#include <cstdint>

namespace gqmm::detail {

/// The tokens of B sequences, and the states of their heads (include/gqmm/gated_delta.hpp). No extent but the number of tokens is
/// 0. The matrices of q, k, v, g and beta belong to the tokens (b, t) in row-major order; each has a row for each of its heads.
struct GatedDeltaProblem {
  std::int64_t batch = 0;
  std::int64_t tokens = 0;   // of a sequence
  std::int64_t k_heads = 0;  // of q and k
  std::int64_t v_heads = 0;  // of v, g, beta and the state; a multiple of k_heads
  std::int64_t Dk = 0;
  std::int64_t Dv = 0;
  MatrixBatch q;           // (k_heads, Dk)
  MatrixBatch k;           // likewise
  MatrixBatch v;           // (v_heads, Dv)
  MatrixBatch g;           // (v_heads, Dk), or (v_heads, 1): one factor for all of Dk
  MatrixBatch beta;        // (v_heads, 1)
  MatrixBatch mask;        // (batch, tokens), bool; empty if all tokens count
  MatrixBatch state;       // (Dv, Dk) for each sequence and head, rows without gaps; empty if it is zero
  std::byte* y = nullptr;  // row-major (batch, tokens, v_heads, Dv)
  Dtype y_dtype = Dtype::float32;
  std::byte* next_state = nullptr;  // row-major, as `state`, whose memory it may be
  int threads = 0;                  // of the call's stream

  /// The head of q and k that serves a head of v.
  [[nodiscard]] std::int64_t k_head(std::int64_t v_head) const { return v_head / (v_heads / k_heads); }
  /// Whether a token counts.
  [[nodiscard]] bool counts(std::int64_t b, std::int64_t t) const {
    return mask.empty() || mask.row(0, b)[t * mask.col_stride()] != std::byte{0};
  }
};

}  // namespace gqmm::detail
