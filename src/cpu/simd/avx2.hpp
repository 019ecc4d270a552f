// The vocabulary for AVX2, FMA and F16C (Haswell, Zen and later). Two ymm registers hold the 16 lanes.
#pragma once

#include "cpu/simd/vocabulary.hpp"

#include <immintrin.h>

#include <cstring>

namespace gqmm::cpu {
namespace {

struct Avx2 {
  struct f32 {
    __m256 lo, hi;
  };
  struct i32 {
    __m256i lo, hi;
  };

  // There are 16 ymm registers, two for every 16 lanes. A tile needs registers for integer sums + weights + mask + a broadcast +
  // a product. The float sums wait in memory.
  //   1 slice   3 rows       6 + 2 + 1 + 1 + 2 = 12
  //   2 slices  2 rows       8 + 2 + 1 + 1 + 2 = 14
  //   3 slices  1 row        6 + 2 + 1 + 1 + 2 = 12
  // A dot product is vpmaddubsw, vpmaddwd and vpaddd. Only vpaddd is part of a sum's dependency chain: its latency is 1 cycle, at
  // most 4 start per cycle. So 4 sums would hide the latency, and there are 6. More rows would only share the mask and the shift
  // of nibbles, and they spill. One more row is 2 % slower with one slice, equally fast with two, and 1 % faster with three.
  // (This is on Zen 4; two runs differ by as much.)
  static constexpr TileSize gemm_tile[3] = {{3, 1}, {2, 1}, {1, 1}};
  static constexpr int gemv_rows = 4;
  // 5 rows × 1 strip are 10 sums + 2 weights + 1 broadcast. An fma takes 4 cycles, and 2 start per cycle, so 8 sums hide its
  // latency.
  static constexpr TileSize float_tile = {5, 1};
  static constexpr int float_gemv_rows = 4;  // 8 sums
  // Measured with 1, 2, 4, 8, 12 rows. The GEMV for mxfp8 takes .72, .8, .78, 1, 1.13 of the time of tiles. For weights along n
  // it takes .93, 1.07, 1.3 and more. The crossover is the last number of rows at which the GEMV is not slower.
  static constexpr GemvCrossover float_gemv_crossover = {.along_k = 8, .along_n = 1};
  static constexpr bool wide_dot_differs = true;
  static constexpr bool picks_bits = false;
  static constexpr int pipelined_words = 4;

  template <class Function>
  static i32 each(i32 a, i32 b, Function function) {
    return {function(a.lo, b.lo), function(a.hi, b.hi)};
  }

  static __m256i first_words(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  // Copies at most 32 bytes to a buffer of which 16 lanes may be read.
  static __m256i partial(const std::byte* p, int bytes) {
    alignas(32) std::byte buffer[32] = {};
    __builtin_memcpy(buffer, p, static_cast<std::size_t>(bytes));
    return _mm256_load_si256(reinterpret_cast<const __m256i*>(buffer));
  }

  static f32 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static void store(float* p, f32 a) {
    _mm256_storeu_ps(p, a.lo);
    _mm256_storeu_ps(p + 8, a.hi);
  }
  static i32 load_words(const std::byte* p, int n) {
    if (n >= 16) {
      return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
              _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32))};
    }
    const int* words = reinterpret_cast<const int*>(p);
    return {_mm256_maskload_epi32(words, first_words(n)), _mm256_maskload_epi32(words + 8, first_words(n - 8))};
  }
  static i32 load_u16(const std::byte* p, int n) {
    const __m256i halves = n >= 16 ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)) : partial(p, 2 * n);
    return {_mm256_cvtepu16_epi32(_mm256_castsi256_si128(halves)), _mm256_cvtepu16_epi32(_mm256_extracti128_si256(halves, 1))};
  }
  static i32 load_u8(const std::byte* p, int n) {
    const __m128i bytes = n >= 16 ? _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)) : _mm256_castsi256_si128(partial(p, n));
    return {_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8))};
  }
  // Loads the rows n and n + 4 of eight into the halves of a register. Two rounds of shuffles within the halves follow.
  static void load_transposed8(const std::byte* p, std::int64_t stride, __m256i (&words)[4]) {
    __m256i row[4];
    for (int n = 0; n < 4; ++n) {
      const auto half = [&](int r) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + r * stride)); };
      row[n] = _mm256_inserti128_si256(_mm256_castsi128_si256(half(n)), half(n + 4), 1);
    }
    const __m256i low01 = _mm256_unpacklo_epi32(row[0], row[1]);
    const __m256i high01 = _mm256_unpackhi_epi32(row[0], row[1]);
    const __m256i low23 = _mm256_unpacklo_epi32(row[2], row[3]);
    const __m256i high23 = _mm256_unpackhi_epi32(row[2], row[3]);
    words[0] = _mm256_unpacklo_epi64(low01, low23);
    words[1] = _mm256_unpackhi_epi64(low01, low23);
    words[2] = _mm256_unpacklo_epi64(high01, high23);
    words[3] = _mm256_unpackhi_epi64(high01, high23);
  }
  static void load_transposed(const std::byte* p, std::int64_t stride, i32 (&words)[4]) {
    __m256i lo[4];
    __m256i hi[4];
    load_transposed8(p, stride, lo);
    load_transposed8(p + 8 * stride, stride, hi);
    for (int j = 0; j < 4; ++j) {
      words[j] = {lo[j], hi[j]};
    }
  }
  static void store_words(std::byte* p, i32 a, int n) {
    int* words = reinterpret_cast<int*>(p);
    if (n >= 16) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a.lo);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 32), a.hi);
      return;
    }
    _mm256_maskstore_epi32(words, first_words(n), a.lo);
    _mm256_maskstore_epi32(words + 8, first_words(n - 8), a.hi);
  }
  static __m256i low_halves(i32 a) {
    const __m256i mask = _mm256_set1_epi32(0xffff);
    const __m256i packed = _mm256_packus_epi32(_mm256_and_si256(a.lo, mask), _mm256_and_si256(a.hi, mask));
    return _mm256_permute4x64_epi64(packed, 0xd8);
  }
  static void store_u16(std::byte* p, i32 a, int n) {
    const __m256i halves = low_halves(a);
    if (n >= 16) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), halves);
      return;
    }
    alignas(32) std::byte buffer[32];
    _mm256_store_si256(reinterpret_cast<__m256i*>(buffer), halves);
    __builtin_memcpy(p, buffer, 2 * static_cast<std::size_t>(n));
  }
  static f32 broadcast(float a) { return {_mm256_set1_ps(a), _mm256_set1_ps(a)}; }
  static i32 broadcast(std::int32_t a) { return {_mm256_set1_epi32(a), _mm256_set1_epi32(a)}; }
  static void prefetch(const std::byte* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0); }
  static void prefetch_l2(const std::byte* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T1); }

  static f32 add(f32 a, f32 b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
  static f32 sub(f32 a, f32 b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
  static f32 mul(f32 a, f32 b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
  static f32 div(f32 a, f32 b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
  static f32 fma(f32 a, f32 b, f32 c) { return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)}; }
  static __m256 canonical(__m256 a) {
    return _mm256_blendv_ps(a, _mm256_castsi256_ps(_mm256_set1_epi32(0x7fc00000)), _mm256_cmp_ps(a, a, _CMP_UNORD_Q));
  }
  static f32 canonical(f32 a) { return {canonical(a.lo), canonical(a.hi)}; }
  static f32 min(f32 a, f32 b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
  static f32 max(f32 a, f32 b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
  static f32 select_less(f32 a, f32 b, f32 c, f32 d) {
    return {_mm256_blendv_ps(d.lo, c.lo, _mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ)),
            _mm256_blendv_ps(d.hi, c.hi, _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ))};
  }

  static f32 as_f32(i32 a) { return {_mm256_castsi256_ps(a.lo), _mm256_castsi256_ps(a.hi)}; }
  static i32 as_i32(f32 a) { return {_mm256_castps_si256(a.lo), _mm256_castps_si256(a.hi)}; }
  static f32 to_f32(i32 a) { return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }
  static i32 round_i32(f32 a) { return {_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi)}; }
  static f32 from_f16(i32 a) {
    const __m256i halves = low_halves(a);
    return {_mm256_cvtph_ps(_mm256_castsi256_si128(halves)), _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1))};
  }
  static i32 to_f16(f32 a) {
    constexpr int nearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return {_mm256_cvtepu16_epi32(_mm256_cvtps_ph(a.lo, nearest)), _mm256_cvtepu16_epi32(_mm256_cvtps_ph(a.hi, nearest))};
  }

  static i32 add(i32 a, i32 b) { return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)}; }
  static i32 sub(i32 a, i32 b) { return {_mm256_sub_epi32(a.lo, b.lo), _mm256_sub_epi32(a.hi, b.hi)}; }
  static i32 bit_and(i32 a, i32 b) { return {_mm256_and_si256(a.lo, b.lo), _mm256_and_si256(a.hi, b.hi)}; }
  static i32 bit_or(i32 a, i32 b) { return {_mm256_or_si256(a.lo, b.lo), _mm256_or_si256(a.hi, b.hi)}; }
  static i32 max(i32 a, i32 b) { return {_mm256_max_epi32(a.lo, b.lo), _mm256_max_epi32(a.hi, b.hi)}; }
  template <int N>
  static i32 shift_left(i32 a) {
    return {_mm256_slli_epi32(a.lo, N), _mm256_slli_epi32(a.hi, N)};
  }
  template <int N>
  static i32 shift_right(i32 a) {
    return {_mm256_srli_epi32(a.lo, N), _mm256_srli_epi32(a.hi, N)};
  }
  template <int N>
  static i32 shift_right_arithmetic(i32 a) {
    return {_mm256_srai_epi32(a.lo, N), _mm256_srai_epi32(a.hi, N)};
  }
  template <int N>
  static i32 funnel_right(i32 low, i32 high) {
    return bit_or(shift_right<N>(low), shift_left<32 - N>(high));
  }
  static std::int32_t reduce_max(i32 a) {
    __m256i m = _mm256_max_epi32(a.lo, a.hi);
    m = _mm256_max_epi32(m, _mm256_permute4x64_epi64(m, 0x4e));
    m = _mm256_max_epi32(m, _mm256_shuffle_epi32(m, 0x4e));
    m = _mm256_max_epi32(m, _mm256_shuffle_epi32(m, 0xb1));
    return _mm256_cvtsi256_si32(m);
  }
  static float reduce_max(f32 a) {
    const __m256 m = _mm256_max_ps(a.lo, a.hi);
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps(m, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
  }
  static std::int32_t reduce_add(i32 a) {
    __m256i m = _mm256_add_epi32(a.lo, a.hi);
    m = _mm256_add_epi32(m, _mm256_permute4x64_epi64(m, 0x4e));
    m = _mm256_add_epi32(m, _mm256_shuffle_epi32(m, 0x4e));
    m = _mm256_add_epi32(m, _mm256_shuffle_epi32(m, 0xb1));
    return _mm256_cvtsi256_si32(m);
  }
  static std::uint32_t mask_at_least(i32 a, std::int32_t bound) {
    const __m256i limit = _mm256_set1_epi32(bound);
    const auto below_lo = static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(limit, a.lo))));
    const auto below_hi = static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(limit, a.hi))));
    return ~(below_lo | below_hi << 8) & 0xffffU;
  }
  static int count_at_least(i32 a, std::int32_t bound) { return __builtin_popcount(mask_at_least(a, bound)); }

  // vpmaddubsw adds two products in 16 bits. 2 · 127 · 128 fits; 2 · 255 · 127 would saturate. So the top bit of wide codes is
  // multiplied on its own.
  template <int max_u>
  static i32 dot(i32 acc_s32, i32 w_u8, i32 x_s8) {
    const __m256i ones = _mm256_set1_epi16(1);
    const auto sum = [&](__m256i w, __m256i x) { return _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), ones); };
    if constexpr (max_u <= 128) {
      return add(acc_s32, each(w_u8, x_s8, sum));
    } else {
      const i32 low = each(bit_and(w_u8, broadcast(0x7f7f7f7f)), x_s8, sum);
      const i32 high = each(bit_and(w_u8, broadcast(static_cast<std::int32_t>(0x80808080U))), x_s8, sum);
      return add(acc_s32, add(low, high));
    }
  }
  static i32 lookup(const std::uint8_t (&table)[16], i32 nibbles) {
    const __m256i entries = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
    return {_mm256_shuffle_epi8(entries, nibbles.lo), _mm256_shuffle_epi8(entries, nibbles.hi)};
  }

  template <bool EvenOdd>
  static void pack_bytes(i32 a, std::int32_t* words) {
    // Move the low byte of each lane to the bottom word of its 128-bit half. Then put the four words together.
    const __m256i pick = _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,  //
                                          0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
    const __m256i lo = _mm256_shuffle_epi8(a.lo, pick);
    const __m256i hi = _mm256_shuffle_epi8(a.hi, pick);
    const __m128i first = _mm_unpacklo_epi32(_mm256_castsi256_si128(lo), _mm256_extracti128_si256(lo, 1));
    const __m128i second = _mm_unpacklo_epi32(_mm256_castsi256_si128(hi), _mm256_extracti128_si256(hi, 1));
    __m128i bytes = _mm_unpacklo_epi64(first, second);
    if constexpr (EvenOdd) {
      bytes = _mm_shuffle_epi8(bytes, _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15));
    }
    _mm_storeu_si128(reinterpret_cast<__m128i*>(words), bytes);
  }

  template <int Bits>
  static i32 unpack_codes(const std::byte* p) {
    alignas(32) std::byte buffer[32] = {};
    __builtin_memcpy(buffer, p, 2 * Bits);
    const __m128i stream = _mm_load_si128(reinterpret_cast<const __m128i*>(buffer));
    const auto half = [&](int first) {
      // Lane i needs the bits [i·Bits, i·Bits + Bits). They are in the two bytes from i·Bits/8 on, shifted by i·Bits mod 8.
      const __m256i lane = _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(first));
      const __m256i bit = _mm256_mullo_epi32(lane, _mm256_set1_epi32(Bits));
      const __m256i low = _mm256_srli_epi32(bit, 3);
      const __m256i high = _mm256_srli_epi32(_mm256_add_epi32(bit, _mm256_set1_epi32(Bits - 1)), 3);
      const __m256i index = _mm256_or_si256(_mm256_or_si256(low, _mm256_slli_epi32(high, 8)),
                                            _mm256_set1_epi32(static_cast<std::int32_t>(0x80800000U)));
      const __m256i windows = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(stream), index);
      const __m256i shift = _mm256_and_si256(bit, _mm256_set1_epi32(7));
      return _mm256_and_si256(_mm256_srlv_epi32(windows, shift), _mm256_set1_epi32((1 << Bits) - 1));
    };
    return {half(0), half(8)};
  }
};

static_assert(Vocabulary<Avx2>);

}  // namespace
}  // namespace gqmm::cpu
