// The mode affine. Codes are unsigned integers of b bits, and ŵ = scale · code + bias. Scale and bias are float16, bfloat16 or
// float32.
//
//     4 bits:  bits of a word   31..28 27..24 23..20 19..16 15..12 11..8  7..4   3..0
//              code              k+7    k+6    k+5    k+4    k+3    k+2    k+1    k
//     3 bits:  a code may lie in two words: bits 30 and 31 of the first word and bit 0 of the second are code 10 of the row
#pragma once

#include "formats/format.hpp"

namespace gqmm::detail {

template <int Bits>
struct Affine {
  static constexpr Mode mode = Mode::affine;
  static constexpr std::string_view mode_name = "affine";
  static constexpr bool is_default = Bits == 4;
  static constexpr int bits = Bits;
  static constexpr int group_sizes[3] = {32, 64, 128};
  static constexpr int default_group_size = 64;
  static constexpr ScaleEncoding scale_encoding = ScaleEncoding::floating;
  static constexpr bool has_biases = true;
  static constexpr bool has_global_scale = false;
  static constexpr std::optional<SmallFloat> float_code = std::nullopt;
  static constexpr IntegerForm integer = {.max_u = (1 << Bits) - 1};
};

}  // namespace gqmm::detail
