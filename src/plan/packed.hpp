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

#include <cstdint>

namespace gqmm {

inline constexpr std::int64_t strip_width = 16;

/// Strips of so many rows, the last one perhaps partial.
inline std::int64_t strips_of(std::int64_t rows) { return rows / strip_width + (rows % strip_width != 0 ? 1 : 0); }

struct PackedWeights::Data {
  const Format* format = nullptr;
  int group_size = 0;
  bool transpose = true;
  Shape shape;  // dequantized
  std::int64_t experts = 0;
  array codes;         // uint32 (experts, strips, words, 16), or (experts, K, words)
  array scales;        // (experts, strips, groups, 16), or (experts, K, groups)
  array biases;        // likewise; empty without biases
  array global_scale;  // float32 (experts,) or empty
};

}  // namespace gqmm
