// What the problems of all recurrences over tokens share, as the API hands it down.
#pragma once

#include "arrays/matrix_batch.hpp"

#include <cstddef>
#include <cstdint>
#include <vector>

namespace gqmm::detail {

/// The tokens of B sequences, and the states of their heads. A token changes the state S of a head, which is (Dv, Dk), by its k
/// and v, and reads y = S · q. No extent but the number of tokens is 0. The matrices of q, k and v belong to the tokens (b, t) in
/// row-major order; each has a row for each of its heads.
struct RecurrenceProblem {
  std::int64_t batch = 0;
  std::int64_t tokens = 0;   // of a sequence
  std::int64_t k_heads = 0;  // of q and k
  std::int64_t v_heads = 0;  // of v and the state; a multiple of k_heads
  std::int64_t Dk = 0;
  std::int64_t Dv = 0;
  MatrixBatch q;                      // (k_heads, Dk)
  MatrixBatch k;                      // likewise
  MatrixBatch v;                      // (v_heads, Dv)
  MatrixBatch mask;                   // (batch, tokens), bool; empty if all tokens count
  std::vector<std::int64_t> lengths;  // tokens of each sequence; those behind do not count. Empty: none are behind
  MatrixBatch state;                  // (Dv, Dk) for each sequence and head, rows without gaps; empty if it is zero
  std::byte* y = nullptr;             // row-major (batch, tokens, v_heads, Dv)
  Dtype y_dtype = Dtype::float32;
  std::byte* next_state = nullptr;  // row-major, as `state`, whose memory it may be
  int threads = 0;                  // of the call's stream

  /// The head of q and k that serves a head of v.
  [[nodiscard]] std::int64_t k_head(std::int64_t v_head) const { return v_head / (v_heads / k_heads); }
  /// Whether a token counts.
  [[nodiscard]] bool counts(std::int64_t b, std::int64_t t) const {
    return (lengths.empty() || t < lengths[static_cast<std::size_t>(b)]) &&
           (mask.empty() || mask.row(0, b)[t * mask.col_stride()] != std::byte{0});
  }
};

}  // namespace gqmm::detail
