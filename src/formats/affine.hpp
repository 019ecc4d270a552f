// affine: b-bit unsigned codes, ŵ = scale · code + bias, scale and bias in float16, bfloat16 or float32.
//
//     4 bits:  uint32   31..28 27..24 23..20 19..16 15..12 11..8  7..4   3..0        3 bits: a code may cross a word:
//     code               k+7    k+6    k+5    k+4    k+3    k+2    k+1    k          bit 30, 31 | 0  is code 10 of the row
#pragma once

#include "formats/format.hpp"

namespace gqmm {

template <int Bits>
struct Affine {
  static constexpr Mode mode = Mode::affine;
  static constexpr int bits = Bits;
  static constexpr int group_sizes[3] = {32, 64, 128};
  static constexpr int default_group_size = 64;
  static constexpr ScaleEncoding scale_encoding = ScaleEncoding::floating;
  static constexpr bool has_biases = true;
  static float value(unsigned code) { return static_cast<float>(code); }
  static constexpr IntegerForm integer = {.max_u = (1 << Bits) - 1};
};

}  // namespace gqmm
