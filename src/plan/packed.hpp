// Memory of a PackedWeights (docs/formats.md draws it). Codes are the words of the original rows, rearranged, not re-encoded:
//
//   strip = 16 consecutive rows (outputs) n of one expert; word j of the strip's 16 rows is one 64-byte line
//
//     codes   [expert][strip][word j]  [16 lanes]  uint32
//     scales  [expert][strip][group g] [16 lanes]  original type; biases likewise
//
// Rows past N in the last strip are zero. Without transpose the original rows are kept as they are, made contiguous.
#pragma once

#include "formats/format.hpp"

#include <gqmm/packed_weights.hpp>

#include <cstddef>
#include <memory>

namespace gqmm {

inline constexpr std::int64_t strip_width = 16;

struct PackedWeights::Data {
  const Format* format = nullptr;
  int group_size = 0;
  bool transpose = true;
  Shape shape;  // dequantized
  std::int64_t experts = 0;
  Dtype scale_dtype = Dtype::float32;
  array codes;         // uint32 (experts, strips, words, 16), or (experts, K, words)
  array scales;        // (experts, strips, groups, 16), or (experts, K, groups)
  array biases;        // likewise; empty without biases
  array global_scale;  // float32 (experts,) or empty
};

}  // namespace gqmm
