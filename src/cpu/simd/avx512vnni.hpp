// The vocabulary for AVX-512 with VNNI (Ice Lake, Zen 4 and later). Its dot product is one instruction.
#pragma once

#include "cpu/simd/avx512bw.hpp"

namespace gqmm::cpu {
namespace {

struct Avx512Vnni : Avx512Bw {
  // There are 32 zmm registers. vpdpbusd takes 4 cycles, and 2 start per cycle, so 8 independent sums hide its latency. A tile
  // needs registers for integer sums + float sums + weights + masks:
  //   1 slice   4 rows × 3 strips      12 + 12 + 3 + 1 = 28
  //   2 slices  4 rows × 2 strips      16 +  8 + 2 + 1 = 27
  //   3 slices  2 rows × 3 strips      18 +  6 + 3 + 1 = 28
  static constexpr TileSize gemm_tile[3] = {{4, 3}, {4, 2}, {2, 3}};
  static constexpr bool wide_dot_differs = false;

  template <int max_u>
  static i32 dot(i32 acc_s32, i32 w_u8, i32 x_s8) {
    return _mm512_dpbusd_epi32(acc_s32, w_u8, x_s8);
  }
};

static_assert(Vocabulary<Avx512Vnni>);

}  // namespace
}  // namespace gqmm::cpu
