// The vocabulary for AVX-VNNI (Alder Lake, Zen 5 and later): AVX2 with a dot product of one instruction.
#pragma once

#include "cpu/simd/avx2.hpp"

namespace gqmm::cpu {
namespace {

struct AvxVnni : Avx2 {
  // There are 16 ymm registers, two for every 16 lanes. vpdpbusd takes 5 cycles, and 2 start per cycle, so 10 sums hide its
  // latency. A tile needs registers for integer sums + both halves of a line of nibbles + mask + a broadcast. The float sums wait
  // in memory.
  //   1 slice   5 rows      10 + 4 + 1 + 1 = 16
  //   2 slices  2 rows       8 + 4 + 1 + 1 = 14
  //   3 slices  2 rows      12 + 4 + 1 + 1 = 18, where the 6 sums of one row would be too few
  // Three rows of 2 slices spill: they take 2.5 instructions for a dot product instead of 2.2.
  static constexpr TileSize gemm_tile[3] = {{5, 1}, {2, 1}, {2, 1}};
  static constexpr bool wide_dot_differs = false;

  template <int max_u>
  static i32 dot(i32 acc_s32, i32 w_u8, i32 x_s8) {
    return {_mm256_dpbusd_avx_epi32(acc_s32.lo, w_u8.lo, x_s8.lo), _mm256_dpbusd_avx_epi32(acc_s32.hi, w_u8.hi, x_s8.hi)};
  }
};

static_assert(Vocabulary<AvxVnni>);

}  // namespace
}  // namespace gqmm::cpu
