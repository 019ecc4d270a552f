// The vocabulary for NEON with the dot products of Armv8.2 (Neoverse N1, Cortex-A76, Apple M1 and later). Four q registers hold
// the 16 lanes.
#pragma once

#include "cpu/simd/vocabulary.hpp"

#include <arm_neon.h>

namespace gqmm::cpu {
namespace {

struct NeonDotprod {
  struct f32 {
    float32x4_t q[4];
  };
  struct i32 {
    int32x4_t q[4];
  };

  // There are 32 registers, four for every 16 lanes. sdot takes 3 or 4 cycles; 2 start per cycle on Neoverse N1 and 4 on V1. So
  // 16 sums hide its latency everywhere. A tile needs registers for integer sums + both halves of a line of nibbles + mask + a
  // broadcast. The float sums wait in memory.
  //   1 slice   5 rows      20 + 8 + 1 + 1 = 30
  //   2 slices  2 rows      16 + 8 + 1 + 1 = 26
  //   3 slices  2 rows      24 + 8 + 1 + 1 = 34, where the 12 sums of one row would be too few
  // The next larger tiles, 6 and 3 rows, have fewer unpacking instructions per sdot, but they spill. In all they have as many
  // instructions of the vector units, or more. These numbers were counted in Clang 19's code; nothing here has been measured.
  static constexpr TileSize gemm_tile[3] = {{5, 1}, {2, 1}, {2, 1}};
  static constexpr int gemv_rows = 4;
  // 6 rows × 1 strip are 24 sums + 4 weights + 1 broadcast. An fma takes 4 cycles, and 4 start per cycle on the widest cores. So
  // 16 sums hide its latency.
  static constexpr TileSize float_tile = {6, 1};
  static constexpr int float_gemv_rows = 4;                                            // 16 sums
  static constexpr GemvCrossover float_gemv_crossover = {.along_k = 8, .along_n = 1};  // the values of AVX2; not measured
  static constexpr bool wide_dot_differs = true;
  static constexpr bool picks_bits = false;
  static constexpr int pipelined_words = 8;

  template <class To, class Function, class... From>
  static To each(Function function, const From&... a) {
    return {{function(a.q[0]...), function(a.q[1]...), function(a.q[2]...), function(a.q[3]...)}};
  }

  static int32x4_t words(uint8x16_t bytes) { return vreinterpretq_s32_u8(bytes); }
  static uint8x16_t bytes(int32x4_t words) { return vreinterpretq_u8_s32(words); }
  static int32x4_t zero_extended(uint16x4_t halves) { return vreinterpretq_s32_u32(vmovl_u16(halves)); }
  static uint16x4_t low_halves(int32x4_t words) { return vmovn_u32(vreinterpretq_u32_s32(words)); }
  static const std::uint8_t* address(const std::byte* p) { return reinterpret_cast<const std::uint8_t*>(p); }
  static std::uint8_t* address(std::byte* p) { return reinterpret_cast<std::uint8_t*>(p); }

  static i32 load_all_words(const std::uint8_t* p) {
    return {{words(vld1q_u8(p)), words(vld1q_u8(p + 16)), words(vld1q_u8(p + 32)), words(vld1q_u8(p + 48))}};
  }
  static i32 load_all_halves(const std::uint8_t* p) {
    const uint16x8_t lo = vreinterpretq_u16_u8(vld1q_u8(p));
    const uint16x8_t hi = vreinterpretq_u16_u8(vld1q_u8(p + 16));
    return {{zero_extended(vget_low_u16(lo)), zero_extended(vget_high_u16(lo)), zero_extended(vget_low_u16(hi)),
             zero_extended(vget_high_u16(hi))}};
  }
  static i32 load_all_bytes(const std::uint8_t* p) {
    const uint8x16_t all = vld1q_u8(p);
    const uint16x8_t lo = vmovl_u8(vget_low_u8(all));
    const uint16x8_t hi = vmovl_u8(vget_high_u8(all));
    return {{zero_extended(vget_low_u16(lo)), zero_extended(vget_high_u16(lo)), zero_extended(vget_low_u16(hi)),
             zero_extended(vget_high_u16(hi))}};
  }
  // Returns load_all(p). For n < 16 elements of `size` bytes, it loads a copy of those that exist.
  template <int size, class LoadAll>
  static i32 load_first(const std::byte* p, int n, LoadAll load_all) {
    if (n >= lanes) {
      return load_all(address(p));
    }
    std::uint8_t copy[lanes * size] = {};
    __builtin_memcpy(copy, p, static_cast<std::size_t>(n > 0 ? n * size : 0));
    return load_all(copy);
  }

  static f32 load(const float* p) { return {{vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}}; }
  static void store(float* p, f32 a) {
    for (int i = 0; i < 4; ++i) {
      vst1q_f32(p + 4 * i, a.q[i]);
    }
  }
  static i32 load_words(const std::byte* p, int n) { return load_first<4>(p, n, load_all_words); }
  static i32 load_u16(const std::byte* p, int n) { return load_first<2>(p, n, load_all_halves); }
  static i32 load_u8(const std::byte* p, int n) { return load_first<1>(p, n, load_all_bytes); }
  static void load_transposed(const std::byte* p, std::int64_t stride, i32 (&words)[4]) {
    const auto pairs = [](int32x4_t x, int32x4_t y) { return vreinterpretq_s64_s32(vtrn1q_s32(x, y)); };
    const auto odd_pairs = [](int32x4_t x, int32x4_t y) { return vreinterpretq_s64_s32(vtrn2q_s32(x, y)); };
    for (int quarter = 0; quarter < 4; ++quarter) {
      int32x4_t row[4];
      for (int n = 0; n < 4; ++n) {
        row[n] = vreinterpretq_s32_u8(vld1q_u8(address(p + (4 * quarter + n) * stride)));
      }
      const int64x2_t even01 = pairs(row[0], row[1]);
      const int64x2_t even23 = pairs(row[2], row[3]);
      const int64x2_t odd01 = odd_pairs(row[0], row[1]);
      const int64x2_t odd23 = odd_pairs(row[2], row[3]);
      words[0].q[quarter] = vreinterpretq_s32_s64(vtrn1q_s64(even01, even23));
      words[1].q[quarter] = vreinterpretq_s32_s64(vtrn1q_s64(odd01, odd23));
      words[2].q[quarter] = vreinterpretq_s32_s64(vtrn2q_s64(even01, even23));
      words[3].q[quarter] = vreinterpretq_s32_s64(vtrn2q_s64(odd01, odd23));
    }
  }
  static void store_words(std::byte* p, i32 a, int n) {
    if (n < lanes) {
      __builtin_memcpy(p, &a, static_cast<std::size_t>(n > 0 ? 4 * n : 0));
      return;
    }
    for (int i = 0; i < 4; ++i) {
      vst1q_u8(address(p) + 16 * i, bytes(a.q[i]));
    }
  }
  static void store_u16(std::byte* p, i32 a, int n) {
    const uint16x8_t halves[2] = {vcombine_u16(low_halves(a.q[0]), low_halves(a.q[1])),
                                  vcombine_u16(low_halves(a.q[2]), low_halves(a.q[3]))};
    __builtin_memcpy(p, halves, static_cast<std::size_t>(n >= lanes ? 2 * lanes : n > 0 ? 2 * n : 0));
  }
  static f32 broadcast(float a) { return {{vdupq_n_f32(a), vdupq_n_f32(a), vdupq_n_f32(a), vdupq_n_f32(a)}}; }
  static i32 broadcast(std::int32_t a) { return {{vdupq_n_s32(a), vdupq_n_s32(a), vdupq_n_s32(a), vdupq_n_s32(a)}}; }
  static void prefetch(const std::byte* p) { __builtin_prefetch(p, 0, 3); }
  static void prefetch_l2(const std::byte* p) { __builtin_prefetch(p, 0, 2); }

  static f32 add(f32 a, f32 b) {
    return each<f32>([](auto x, auto y) { return vaddq_f32(x, y); }, a, b);
  }
  static f32 sub(f32 a, f32 b) {
    return each<f32>([](auto x, auto y) { return vsubq_f32(x, y); }, a, b);
  }
  static f32 mul(f32 a, f32 b) {
    return each<f32>([](auto x, auto y) { return vmulq_f32(x, y); }, a, b);
  }
  static f32 div(f32 a, f32 b) {
    return each<f32>([](auto x, auto y) { return vdivq_f32(x, y); }, a, b);
  }
  static f32 fma(f32 a, f32 b, f32 c) {
    return each<f32>([](auto x, auto y, auto z) { return vfmaq_f32(z, x, y); }, a, b, c);
  }
  static f32 canonical(f32 a) {
    return each<f32>([](auto x) { return vbslq_f32(vceqq_f32(x, x), x, vreinterpretq_f32_s32(vdupq_n_s32(0x7fc00000))); }, a);
  }
  // fmin and fmax return NaN if either argument is NaN, and order zeros by their sign. So these two compare and select.
  static f32 min(f32 a, f32 b) { return select_less(a, b, a, b); }
  static f32 max(f32 a, f32 b) { return select_less(b, a, a, b); }
  static f32 select_less(f32 a, f32 b, f32 c, f32 d) {
    return each<f32>([](auto x, auto y, auto u, auto v) { return vbslq_f32(vcltq_f32(x, y), u, v); }, a, b, c, d);
  }

  static f32 as_f32(i32 a) {
    return each<f32>([](auto x) { return vreinterpretq_f32_s32(x); }, a);
  }
  static i32 as_i32(f32 a) {
    return each<i32>([](auto x) { return vreinterpretq_s32_f32(x); }, a);
  }
  static f32 to_f32(i32 a) {
    return each<f32>([](auto x) { return vcvtq_f32_s32(x); }, a);
  }
  static i32 round_i32(f32 a) {
    return each<i32>([](auto x) { return vcvtnq_s32_f32(x); }, a);
  }
  static f32 from_f16(i32 a) {
    return each<f32>([](auto x) { return vcvt_f32_f16(vreinterpret_f16_u16(low_halves(x))); }, a);
  }
  static i32 to_f16(f32 a) {
    return each<i32>([](auto x) { return zero_extended(vreinterpret_u16_f16(vcvt_f16_f32(x))); }, a);
  }

  static i32 add(i32 a, i32 b) {
    return each<i32>([](auto x, auto y) { return vaddq_s32(x, y); }, a, b);
  }
  static i32 sub(i32 a, i32 b) {
    return each<i32>([](auto x, auto y) { return vsubq_s32(x, y); }, a, b);
  }
  static i32 bit_and(i32 a, i32 b) {
    return each<i32>([](auto x, auto y) { return vandq_s32(x, y); }, a, b);
  }
  static i32 bit_or(i32 a, i32 b) {
    return each<i32>([](auto x, auto y) { return vorrq_s32(x, y); }, a, b);
  }
  static i32 max(i32 a, i32 b) {
    return each<i32>([](auto x, auto y) { return vmaxq_s32(x, y); }, a, b);
  }
  template <int N>
  static i32 shift_left(i32 a) {
    return each<i32>([](auto x) { return vshlq_n_s32(x, N); }, a);
  }
  template <int N>
  static i32 shift_right(i32 a) {
    return each<i32>([](auto x) { return vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(x), N)); }, a);
  }
  template <int N>
  static i32 shift_right_arithmetic(i32 a) {
    return each<i32>([](auto x) { return vshrq_n_s32(x, N); }, a);
  }
  template <int N>
  static i32 funnel_right(i32 low, i32 high) {
    return each<i32>([](auto x, auto y) { return vsliq_n_s32(x, y, 32 - N); }, shift_right<N>(low), high);
  }
  static std::int32_t reduce_max(i32 a) { return vmaxvq_s32(vmaxq_s32(vmaxq_s32(a.q[0], a.q[1]), vmaxq_s32(a.q[2], a.q[3]))); }
  static float reduce_max(f32 a) { return vmaxvq_f32(vmaxq_f32(vmaxq_f32(a.q[0], a.q[1]), vmaxq_f32(a.q[2], a.q[3]))); }
  static std::int32_t reduce_add(i32 a) { return vaddvq_s32(vaddq_s32(vaddq_s32(a.q[0], a.q[1]), vaddq_s32(a.q[2], a.q[3]))); }
  static std::uint32_t mask_at_least(i32 a, std::int32_t bound) {
    static constexpr std::uint32_t place[4] = {1, 2, 4, 8};
    std::uint32_t mask = 0;
    for (int i = 0; i < 4; ++i) {
      mask |= vaddvq_u32(vandq_u32(vcgeq_s32(a.q[i], vdupq_n_s32(bound)), vld1q_u32(place))) << (4 * i);
    }
    return mask;
  }
  static int count_at_least(i32 a, std::int32_t bound) {
    return -reduce_add(each<i32>([bound](auto x) { return vreinterpretq_s32_u32(vcgeq_s32(x, vdupq_n_s32(bound))); }, a));
  }

  // sdot multiplies signed bytes by signed bytes. Codes of up to 7 bits are signed bytes already. For a wide code, the top bit is
  // flipped, which makes a signed byte that is 128 too small. So 128 · Σx is added; it is the same for all lanes that share a
  // broadcast x. To split off the top bit, as on x86, would cost a second dot product per register.
  template <int max_u>
  static i32 dot(i32 acc_s32, i32 w_u8, i32 x_s8) {
    const auto sdot = [](int32x4_t acc, uint8x16_t w_s8, int32x4_t x) {
      return vdotq_s32(acc, vreinterpretq_s8_u8(w_s8), vreinterpretq_s8_s32(x));
    };
    if constexpr (max_u <= 127) {
      return each<i32>([&](auto acc, auto w, auto x) { return sdot(acc, bytes(w), x); }, acc_s32, w_u8, x_s8);
    } else {
      return each<i32>(
          [&](auto acc, auto w, auto x) {
            const int32x4_t offset = vshlq_n_s32(sdot(vdupq_n_s32(0), vdupq_n_u8(1), x), 7);
            return sdot(vaddq_s32(acc, offset), veorq_u8(bytes(w), vdupq_n_u8(0x80)), x);
          },
          acc_s32, w_u8, x_s8);
    }
  }
  static i32 lookup(const std::uint8_t (&table)[16], i32 nibbles) {
    const uint8x16_t entries = vld1q_u8(table);
    return each<i32>([entries](auto x) { return words(vqtbl1q_u8(entries, bytes(x))); }, nibbles);
  }

  template <bool EvenOdd>
  static void pack_bytes(i32 a, std::int32_t* packed) {
    const uint8x8_t lo = vmovn_u16(vcombine_u16(low_halves(a.q[0]), low_halves(a.q[1])));
    const uint8x8_t hi = vmovn_u16(vcombine_u16(low_halves(a.q[2]), low_halves(a.q[3])));
    uint8x16_t all = vcombine_u8(lo, hi);
    if constexpr (EvenOdd) {
      static constexpr std::uint8_t order[16] = {0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15};
      all = vqtbl1q_u8(all, vld1q_u8(order));
    }
    vst1q_s32(packed, words(all));
  }

  template <int Bits>
  static i32 unpack_codes(const std::byte* p) {
    // Lane i needs the bits [i·Bits, i·Bits + Bits). Fetch the two bytes from i·Bits/8 on, shift them by i·Bits mod 8, and apply
    // the mask.
    struct Source {
      std::uint8_t byte[64];
      std::int32_t shift[16];
    };
    static constexpr Source source = [] {
      Source s = {};
      for (int lane = 0; lane < lanes; ++lane) {
        s.byte[4 * lane] = static_cast<std::uint8_t>(lane * Bits / 8);
        s.byte[4 * lane + 1] = static_cast<std::uint8_t>((lane * Bits + Bits - 1) / 8);
        s.byte[4 * lane + 2] = s.byte[4 * lane + 3] = 0x80;  // 0x80 selects zero
        s.shift[lane] = -(lane * Bits % 8);                  // negative: to the right
      }
      return s;
    }();
    std::uint8_t copy[16] = {};
    __builtin_memcpy(copy, p, 2 * Bits);
    const uint8x16_t stream = vld1q_u8(copy);
    i32 codes;
    for (int i = 0; i < 4; ++i) {
      const uint32x4_t windows = vreinterpretq_u32_u8(vqtbl1q_u8(stream, vld1q_u8(source.byte + 16 * i)));
      const uint32x4_t shifted = vshlq_u32(windows, vld1q_s32(source.shift + 4 * i));
      codes.q[i] = vreinterpretq_s32_u32(vandq_u32(shifted, vdupq_n_u32((1U << Bits) - 1U)));
    }
    return codes;
  }
};

static_assert(Vocabulary<NeonDotprod>);

}  // namespace
}  // namespace gqmm::cpu
