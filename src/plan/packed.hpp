// The memory layout of PackedWeights (docs/reference/formats.md draws it). Codes are the words of the original rows in another
// order. They are not encoded again.
//
//   strip = 16 consecutive rows (outputs) n of one expert; word j of the strip's 16 rows is one 64-byte line
//
//     codes   [expert][strip][word j]  [16 lanes]  uint32
//     scales  [expert][strip][group g] [16 lanes]  original type; biases likewise
//
// Rows past N in the last strip are zero. Without transpose, the original rows keep their order, and copies without gaps are
// stored.
#pragma once

#include "plan/weight_matrices.hpp"

#include <gqmm/packed_weights.hpp>

#include <cstdint>

namespace gqmm {

struct PackedWeights::Data {
  detail::QuantizationSettings settings = {};
  bool transpose = true;
  Shape shape;  // shape of the dequantized weights
  std::int64_t experts = 0;
  array codes;         // uint32 (experts, strips, words, 16), or (experts, K, words)
  array scales;        // (experts, strips, groups, 16), or (experts, K, groups)
  array biases;        // the same shape as scales; empty without biases
  array global_scale;  // float32 (experts,) or empty

  [[nodiscard]] const detail::Format& format() const noexcept { return *settings.format; }

  /// Returns the same weights in the form that a product takes. The result must not outlive this object.
  [[nodiscard]] detail::QuantizedMatrices matrices() const;
};

}  // namespace gqmm
