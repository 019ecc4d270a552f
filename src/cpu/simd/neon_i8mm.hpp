// The vocabulary for NEON with the mixed dot products of Armv8.6 (Neoverse V1 and N2, Apple M2 and later). It multiplies u8 by
// s8.
#pragma once

#include "cpu/simd/neon_dotprod.hpp"

namespace gqmm::cpu {
namespace {

// The extension's other instruction, usmmla, does twice the work per instruction. But it works on 2 × 2 sums and 8 consecutive k
// of each output. That needs other panels and another order of sums than the lanes of a vocabulary, so it would be a kernel of
// its own.
struct NeonI8mm : NeonDotprod {
  static constexpr bool wide_dot_differs = false;

  template <int max_u>
  static i32 dot(i32 acc_s32, i32 w_u8, i32 x_s8) {
    return each<i32>([](auto acc, auto w, auto x) { return vusdotq_s32(acc, bytes(w), vreinterpretq_s8_s32(x)); }, acc_s32, w_u8,
                     x_s8);
  }
};

static_assert(Vocabulary<NeonI8mm>);

}  // namespace
}  // namespace gqmm::cpu
