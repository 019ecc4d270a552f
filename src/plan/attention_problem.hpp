// The problem of attention, as the API hands it down.
#pragma once

#include "arrays/matrix_batch.hpp"
#include "plan/weight_matrices.hpp"

#include <cstddef>
#include <cstdint>
#include <vector>

namespace gqmm::detail {

/// What decides which keys a query sees.
enum class MaskKind : std::uint8_t {
  none,      // every query sees all keys
  causal,    // query t sees the keys 0 … L − T + t
  boolean,   // those whose element of the mask is not 0
  additive,  // those whose element is not −Inf; it is added to the score
};

/// The keys or the values of all heads: matrices of one row for each key. They are dense, or affine codes along the rows.
struct KeyMatrices {
  MatrixBatch dense;  // empty if they are quantized. Elements of a row are neighbours in memory
  QuantizedMatrices quantized = {};

  [[nodiscard]] bool is_quantized() const { return dense.empty(); }
  [[nodiscard]] std::int64_t rows() const { return is_quantized() ? quantized.codes.rows() : dense.rows(); }
  [[nodiscard]] std::int64_t cols() const {
    return is_quantized() ? quantized.scales.cols() * quantized.group_size() : dense.cols();
  }
};

/// y = softmax(scale · q · kᵀ + mask) · v for each head. q has (T, D) matrices, k has (L, D), v has (L, Dv), for B batch elements
/// of q_heads or kv_heads heads each, in this order. A head of k and v serves q_heads / kv_heads consecutive heads of q. No
/// extent is 0. Elements of a row are neighbours in memory, except for those of a mask.
struct AttentionProblem {
  std::int64_t batch = 0;
  std::int64_t q_heads = 0;
  std::int64_t kv_heads = 0;
  MatrixBatch q;
  KeyMatrices k;
  KeyMatrices v;  // quantized if k is
  float scale = 0;
  MaskKind mask_kind = MaskKind::none;
  MatrixBatch mask;                  // (T, L) for each head of q; repeated ones have stride 0
  bool mask_differs_by_head = true;  // whether heads of q have masks of their own
  std::vector<float> sinks;          // for each head of q; empty if there are none
  std::vector<std::int64_t> origin;  // for each batch element: the key at position 0
  std::byte* y = nullptr;            // row-major (batch, q_heads, T, Dv)
  Dtype y_dtype = Dtype::float32;
  int threads = 0;  // of the call's stream

  [[nodiscard]] std::int64_t queries() const { return q.rows(); }
  [[nodiscard]] std::int64_t keys() const { return k.rows(); }
  [[nodiscard]] std::int64_t depth() const { return q.cols(); }
  [[nodiscard]] std::int64_t width() const { return v.cols(); }
  [[nodiscard]] bool is_quantized() const { return k.is_quantized(); }
  /// The heads of q that share a head of k and v.
  [[nodiscard]] std::int64_t group() const { return q_heads / kv_heads; }
};

}  // namespace gqmm::detail
