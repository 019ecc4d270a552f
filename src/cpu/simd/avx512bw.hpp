// The vocabulary for AVX-512 F, BW, DQ, VL (Skylake-X, which has no VNNI). One zmm register holds the 16 lanes.
#pragma once

#include "cpu/simd/vocabulary.hpp"

#include <immintrin.h>

namespace gqmm::cpu {
namespace {

struct Avx512Bw {
  using f32 = __m512;
  using i32 = __m512i;

  // There are 32 zmm registers. A dot product is three instructions, and only vpaddd is part of a sum's dependency chain. So
  // latency asks for nothing. Tall tiles are better than wide ones, because rows share the mask and the shift of nibbles. A tile
  // needs registers for integer sums + float sums + both halves of a line of nibbles + mask, ones, a broadcast and a product:
  //   1 slice   6 rows × 2 strips      12 + 12 + 4 + 4 = 32
  //   2 slices  3 rows × 2 strips      12 +  6 + 4 + 4 = 26
  //   3 slices  2 rows × 2 strips      12 +  4 + 4 + 4 = 24
  // One more row with 2 and 3 slices would need 32 as well, but the number of instructions stays the same: what it saves by
  // sharing, it spends on spills.
  static constexpr TileSize gemm_tile[3] = {{6, 2}, {3, 2}, {2, 2}};
  static constexpr int gemv_rows = 4;
  // 8 rows × 3 strips are 24 sums + 3 weights; every broadcast of x is an operand in memory. An fma takes 4 cycles, and at most 2
  // start per cycle, so 8 sums would hide its latency. The other sums reduce the loads: a tile needs 11 loads for 24 fma.
  static constexpr TileSize float_tile = {8, 3};
  // Registers hold 16 sums + 4 words, as many words being loaded, 5 for their transpose, and 3 that become weights. This kernel
  // unpacks weights beside the fma, whose ports are busy for 17 of 18 cycles (Zen 4). A tile unpacks them before, once for all
  // rows.
  static constexpr int float_gemv_rows = 16;
  // Measured with 1, 2, 4, 8, 16 rows. The GEMV for mxfp8 takes .50, .50, .52, .64, .73 of the time of tiles. For weights along n
  // it takes 1.0, .97, .86, 1.04, 1.09.
  static constexpr GemvCrossover float_gemv_crossover = {.along_k = 16, .along_n = 4};
  static constexpr bool wide_dot_differs = true;
  static constexpr bool picks_bits = false;
  static constexpr int pipelined_words = 8;

  static __mmask16 first(int n) { return static_cast<__mmask16>(n >= 16 ? 0xffff : (1U << n) - 1U); }

  static f32 load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, f32 a) { _mm512_storeu_ps(p, a); }
  static i32 load_words(const std::byte* p, int n) { return _mm512_maskz_loadu_epi32(first(n), p); }
  static i32 load_u16(const std::byte* p, int n) { return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first(n), p)); }
  static i32 load_u8(const std::byte* p, int n) { return _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(first(n), p)); }
  // Loads the rows n, n + 4, n + 8, n + 12 into the quarters of a register. Two rounds of shuffles within the quarters follow.
  // Two thirds of the first step use half registers, which cost half. To exchange quarters after all rows are loaded would cost
  // more.
  static void load_transposed(const std::byte* p, std::int64_t stride, i32 (&words)[4]) {
    i32 row[4];
    for (int n = 0; n < 4; ++n) {
      const auto quarter = [&](int r) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + r * stride)); };
      const __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(quarter(n)), quarter(n + 4), 1);
      const __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256(quarter(n + 8)), quarter(n + 12), 1);
      row[n] = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
    }
    const i32 low01 = _mm512_unpacklo_epi32(row[0], row[1]);
    const i32 high01 = _mm512_unpackhi_epi32(row[0], row[1]);
    const i32 low23 = _mm512_unpacklo_epi32(row[2], row[3]);
    const i32 high23 = _mm512_unpackhi_epi32(row[2], row[3]);
    words[0] = _mm512_unpacklo_epi64(low01, low23);
    words[1] = _mm512_unpackhi_epi64(low01, low23);
    words[2] = _mm512_unpacklo_epi64(high01, high23);
    words[3] = _mm512_unpackhi_epi64(high01, high23);
  }
  static void store_words(std::byte* p, i32 a, int n) { _mm512_mask_storeu_epi32(p, first(n), a); }
  static void store_u16(std::byte* p, i32 a, int n) { _mm256_mask_storeu_epi16(p, first(n), _mm512_cvtepi32_epi16(a)); }
  static f32 broadcast(float a) { return _mm512_set1_ps(a); }
  static i32 broadcast(std::int32_t a) { return _mm512_set1_epi32(a); }
  static void prefetch(const std::byte* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0); }
  static void prefetch_l2(const std::byte* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T1); }

  static f32 add(f32 a, f32 b) { return _mm512_add_ps(a, b); }
  static f32 sub(f32 a, f32 b) { return _mm512_sub_ps(a, b); }
  static f32 mul(f32 a, f32 b) { return _mm512_mul_ps(a, b); }
  static f32 div(f32 a, f32 b) { return _mm512_div_ps(a, b); }
  static f32 fma(f32 a, f32 b, f32 c) { return _mm512_fmadd_ps(a, b, c); }
  static f32 canonical(f32 a) {
    return _mm512_mask_mov_ps(a, _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), as_f32(broadcast(0x7fc00000)));
  }
  static f32 min(f32 a, f32 b) { return _mm512_min_ps(a, b); }
  static f32 max(f32 a, f32 b) { return _mm512_max_ps(a, b); }
  static f32 select_less(f32 a, f32 b, f32 c, f32 d) { return _mm512_mask_mov_ps(d, _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), c); }

  static f32 as_f32(i32 a) { return _mm512_castsi512_ps(a); }
  static i32 as_i32(f32 a) { return _mm512_castps_si512(a); }
  static f32 to_f32(i32 a) { return _mm512_cvtepi32_ps(a); }
  static i32 round_i32(f32 a) { return _mm512_cvtps_epi32(a); }
  static f32 from_f16(i32 a) { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(a)); }
  static i32 to_f16(f32 a) { return _mm512_cvtepu16_epi32(_mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)); }

  static i32 add(i32 a, i32 b) { return _mm512_add_epi32(a, b); }
  static i32 sub(i32 a, i32 b) { return _mm512_sub_epi32(a, b); }
  static i32 bit_and(i32 a, i32 b) { return _mm512_and_si512(a, b); }
  static i32 bit_or(i32 a, i32 b) { return _mm512_or_si512(a, b); }
  static i32 max(i32 a, i32 b) { return _mm512_max_epi32(a, b); }
  template <int N>
  static i32 shift_left(i32 a) {
    return _mm512_slli_epi32(a, N);
  }
  template <int N>
  static i32 shift_right(i32 a) {
    return _mm512_srli_epi32(a, N);
  }
  template <int N>
  static i32 shift_right_arithmetic(i32 a) {
    return _mm512_srai_epi32(a, N);
  }
  template <int N>
  static i32 funnel_right(i32 low, i32 high) {
    return bit_or(shift_right<N>(low), shift_left<32 - N>(high));
  }
  static std::int32_t reduce_max(i32 a) { return _mm512_reduce_max_epi32(a); }
  static float reduce_max(f32 a) { return _mm512_reduce_max_ps(a); }
  static std::int32_t reduce_add(i32 a) { return _mm512_reduce_add_epi32(a); }
  static std::uint32_t mask_at_least(i32 a, std::int32_t bound) { return _mm512_cmpge_epi32_mask(a, broadcast(bound)); }
  static int count_at_least(i32 a, std::int32_t bound) { return __builtin_popcount(mask_at_least(a, bound)); }

  // As on AVX2, vpmaddubsw adds two products in 16 bits, and 2 · 255 · 127 would saturate. So the top bit of wide codes is
  // multiplied on its own.
  template <int max_u>
  static i32 dot(i32 acc_s32, i32 w_u8, i32 x_s8) {
    const auto sum = [&](i32 w) { return _mm512_madd_epi16(_mm512_maddubs_epi16(w, x_s8), _mm512_set1_epi16(1)); };
    if constexpr (max_u <= 128) {
      return add(acc_s32, sum(w_u8));
    } else {
      const i32 low = sum(bit_and(w_u8, broadcast(0x7f7f7f7f)));
      const i32 high = sum(bit_and(w_u8, broadcast(static_cast<std::int32_t>(0x80808080U))));
      return add(acc_s32, add(low, high));
    }
  }
  static i32 lookup(const std::uint8_t (&table)[16], i32 nibbles) {
    const __m128i entries = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(entries), nibbles);
  }

  template <bool EvenOdd>
  static void pack_bytes(i32 a, std::int32_t* words) {
    __m128i bytes = _mm512_cvtepi32_epi8(a);
    if constexpr (EvenOdd) {
      bytes = _mm_shuffle_epi8(bytes, _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15));
    }
    _mm_storeu_si128(reinterpret_cast<__m128i*>(words), bytes);
  }

  /// Loads `bytes` bytes to the bottom of each quarter. It avoids a mask where possible: compilers leave the mask's kmov in
  /// loops, where it costs 2 to 3 cycles for 16 codes.
  template <int bytes>
  static i32 load_to_quarters(const std::byte* p) {
    if constexpr (bytes == 8) {
      long long stream = 0;
      __builtin_memcpy(&stream, p, 8);
      return _mm512_set1_epi64(stream);
    } else if constexpr (bytes == 4) {
      std::int32_t stream = 0;
      __builtin_memcpy(&stream, p, 4);
      return _mm512_set1_epi32(stream);
    } else if constexpr (bytes == 16) {
      return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    } else {
      return _mm512_broadcast_i32x4(_mm_maskz_loadu_epi8(static_cast<__mmask16>((1U << bytes) - 1U), p));
    }
  }
  template <int Bits>
  static i32 unpack_codes(const std::byte* p) {
    // Lane i needs the bits [i·Bits, i·Bits + Bits). Fetch the two bytes from i·Bits/8 on, shift them by i·Bits mod 8, and apply
    // the mask.
    struct Indices {
      std::uint8_t byte[64];
    };
    alignas(64) static constexpr Indices source = [] {
      Indices index = {};
      for (int lane = 0; lane < 16; ++lane) {
        index.byte[4 * lane] = static_cast<std::uint8_t>(lane * Bits / 8);
        index.byte[4 * lane + 1] = static_cast<std::uint8_t>((lane * Bits + Bits - 1) / 8);
        index.byte[4 * lane + 2] = index.byte[4 * lane + 3] = 0x80;  // 0x80 selects zero
      }
      return index;
    }();
    const i32 windows = _mm512_shuffle_epi8(load_to_quarters<2 * Bits>(p), _mm512_load_si512(source.byte));
    const i32 lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const i32 shift = _mm512_and_si512(_mm512_mullo_epi32(lane, broadcast(Bits)), broadcast(7));
    return _mm512_and_si512(_mm512_srlv_epi32(windows, shift), broadcast((1 << Bits) - 1));
  }
};

static_assert(Vocabulary<Avx512Bw>);

}  // namespace
}  // namespace gqmm::cpu
