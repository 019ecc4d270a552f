// The vocabulary in plain C++, for any CPU: the 16 lanes are an array. The other vocabularies must agree with it bit for bit.
// Operands are passed by reference, because compilers would not remove the copies.
#pragma once

#include "cpu/simd/vocabulary.hpp"
#include "formats/float_types.hpp"

#include <cmath>
#include <cstring>

namespace gqmm::cpu {
namespace {

struct Scalar {
  struct f32 {
    float lane[lanes];
  };
  struct i32 {
    std::int32_t lane[lanes];
  };

  static constexpr TileSize gemm_tile[3] = {{1, 1}, {1, 1}, {1, 1}};
  static constexpr TileSize float_tile = {1, 1};
  // With kernels for 2 and 4 rows too, compilers took twice the time for this vocabulary (docs/notebook/compiling.md).
  static constexpr int gemv_rows = 1;
  static constexpr int float_gemv_rows = 1;
  static constexpr GemvCrossover float_gemv_crossover = {.along_k = 1, .along_n = 1};
  static constexpr bool wide_dot_differs = false;
  static constexpr bool picks_bits = false;
  static constexpr int pipelined_words = 0;

  /// Every operation stays a function of its own. If it were inlined, the kernels' unrolled loops would be 16 times as long, and
  /// GCC would take minutes for them.
  template <class To, class Function>
  [[gnu::noinline]] static To make(const Function& function) {
    To result;
    for (int l = 0; l < lanes; ++l) {
      result.lane[l] = function(l);
    }
    return result;
  }
  /// Arithmetic that wraps is done on unsigned integers.
  static std::int32_t wrap(std::uint32_t value) { return static_cast<std::int32_t>(value); }
  static std::uint32_t bits(std::int32_t value) { return static_cast<std::uint32_t>(value); }

  template <class T>
  static i32 load_elements(const std::byte* p, int n) {
    return make<i32>([&](int l) {
      T value = 0;
      if (l < n) {
        std::memcpy(&value, p + static_cast<std::size_t>(l) * sizeof(T), sizeof(T));
      }
      return wrap(value);
    });
  }

  static f32 load(const float* p) {
    f32 a;
    std::memcpy(&a, p, sizeof a);
    return a;
  }
  static void store(float* p, const f32& a) { std::memcpy(p, &a, sizeof a); }
  static i32 load_words(const std::byte* p, int n) { return load_elements<std::uint32_t>(p, n); }
  static i32 load_u16(const std::byte* p, int n) { return load_elements<std::uint16_t>(p, n); }
  static i32 load_u8(const std::byte* p, int n) { return load_elements<std::uint8_t>(p, n); }
  /// It is not inlined, because the lanes of all four words would become variables of their own.
  [[gnu::noinline]] static void load_transposed(const std::byte* p, std::int64_t stride, i32 (&words)[4]) {
    for (int n = 0; n < lanes; ++n) {
      std::int32_t row[4];
      std::memcpy(row, p + n * stride, sizeof row);
      for (int j = 0; j < 4; ++j) {
        words[j].lane[n] = row[j];
      }
    }
  }
  static void store_words(std::byte* p, const i32& a, int n) {
    std::memcpy(p, &a, 4 * static_cast<std::size_t>(n < lanes ? n : lanes));
  }
  static void store_u16(std::byte* p, const i32& a, int n) {
    for (int l = 0; l < lanes && l < n; ++l) {
      const auto half = static_cast<std::uint16_t>(a.lane[l]);
      std::memcpy(p + 2 * l, &half, sizeof half);
    }
  }
  static f32 broadcast(float a) {
    return make<f32>([&](int) { return a; });
  }
  static i32 broadcast(std::int32_t a) {
    return make<i32>([&](int) { return a; });
  }
  static void prefetch(const std::byte*) {}
  static void prefetch_l2(const std::byte*) {}

  static f32 add(const f32& a, const f32& b) {
    return make<f32>([&](int l) { return a.lane[l] + b.lane[l]; });
  }
  static f32 sub(const f32& a, const f32& b) {
    return make<f32>([&](int l) { return a.lane[l] - b.lane[l]; });
  }
  static f32 mul(const f32& a, const f32& b) {
    return make<f32>([&](int l) { return a.lane[l] * b.lane[l]; });
  }
  static f32 div(const f32& a, const f32& b) {
    return make<f32>([&](int l) { return a.lane[l] / b.lane[l]; });
  }
  static f32 fma(const f32& a, const f32& b, const f32& c) {
    return make<f32>([&](int l) { return std::fma(a.lane[l], b.lane[l], c.lane[l]); });
  }
  static f32 canonical(const f32& a) {
    return make<f32>([&](int l) { return std::isnan(a.lane[l]) ? std::bit_cast<float>(0x7fc00000) : a.lane[l]; });
  }
  static f32 min(const f32& a, const f32& b) { return select_less(a, b, a, b); }
  static f32 max(const f32& a, const f32& b) { return select_less(b, a, a, b); }
  static f32 select_less(const f32& a, const f32& b, const f32& c, const f32& d) {
    return make<f32>([&](int l) { return a.lane[l] < b.lane[l] ? c.lane[l] : d.lane[l]; });
  }

  static f32 as_f32(const i32& a) { return std::bit_cast<f32>(a); }
  static i32 as_i32(const f32& a) { return std::bit_cast<i32>(a); }
  static f32 to_f32(const i32& a) {
    return make<f32>([&](int l) { return static_cast<float>(a.lane[l]); });
  }
  static i32 round_i32(const f32& a) {
    return make<i32>([&](int l) { return static_cast<std::int32_t>(std::lrint(a.lane[l])); });
  }
  static f32 from_f16(const i32& a) {
    return make<f32>([&](int l) { return float_from_float16(static_cast<std::uint16_t>(a.lane[l])); });
  }
  static i32 to_f16(const f32& a) {
    return make<i32>([&](int l) { return std::int32_t{float16_from_float(a.lane[l])}; });
  }

  static i32 add(const i32& a, const i32& b) {
    return make<i32>([&](int l) { return wrap(bits(a.lane[l]) + bits(b.lane[l])); });
  }
  static i32 sub(const i32& a, const i32& b) {
    return make<i32>([&](int l) { return wrap(bits(a.lane[l]) - bits(b.lane[l])); });
  }
  static i32 bit_and(const i32& a, const i32& b) {
    return make<i32>([&](int l) { return a.lane[l] & b.lane[l]; });
  }
  static i32 bit_or(const i32& a, const i32& b) {
    return make<i32>([&](int l) { return a.lane[l] | b.lane[l]; });
  }
  static i32 max(const i32& a, const i32& b) {
    return make<i32>([&](int l) { return a.lane[l] > b.lane[l] ? a.lane[l] : b.lane[l]; });
  }
  template <int N>
  static i32 shift_left(const i32& a) {
    return make<i32>([&](int l) { return wrap(bits(a.lane[l]) << N); });
  }
  template <int N>
  static i32 shift_right(const i32& a) {
    return make<i32>([&](int l) { return wrap(bits(a.lane[l]) >> N); });
  }
  template <int N>
  static i32 shift_right_arithmetic(const i32& a) {
    return make<i32>([&](int l) { return a.lane[l] >> N; });
  }
  template <int N>
  static i32 funnel_right(const i32& low, const i32& high) {
    return bit_or(shift_right<N>(low), shift_left<32 - N>(high));
  }
  static std::int32_t reduce_max(const i32& a) {
    std::int32_t largest = a.lane[0];
    for (const std::int32_t lane : a.lane) {
      largest = lane > largest ? lane : largest;
    }
    return largest;
  }
  static float reduce_max(const f32& a) {
    float largest = a.lane[0];
    for (const float lane : a.lane) {
      largest = lane > largest ? lane : largest;
    }
    return largest;
  }
  static std::int32_t reduce_add(const i32& a) {
    std::uint32_t sum = 0;
    for (const std::int32_t lane : a.lane) {
      sum += bits(lane);
    }
    return wrap(sum);
  }
  static std::uint32_t mask_at_least(const i32& a, std::int32_t bound) {
    std::uint32_t mask = 0;
    for (int l = 0; l < lanes; ++l) {
      mask |= (a.lane[l] >= bound ? 1U : 0U) << l;
    }
    return mask;
  }
  static int count_at_least(const i32& a, std::int32_t bound) { return __builtin_popcount(mask_at_least(a, bound)); }

  template <int max_u>
  static i32 dot(const i32& acc_s32, const i32& w_u8, const i32& x_s8) {
    return make<i32>([&](int l) {
      std::int32_t sum = acc_s32.lane[l];
      for (int byte = 0; byte < 4; ++byte) {
        const auto w = static_cast<std::uint8_t>(bits(w_u8.lane[l]) >> (8 * byte));
        const auto x = static_cast<std::int8_t>(bits(x_s8.lane[l]) >> (8 * byte));
        sum = wrap(bits(sum) + bits(int{w} * int{x}));
      }
      return sum;
    });
  }
  static i32 lookup(const std::uint8_t (&table)[16], const i32& nibbles) {
    return make<i32>([&](int l) {
      std::uint32_t word = 0;
      for (int byte = 0; byte < 4; ++byte) {
        word |= std::uint32_t{table[(bits(nibbles.lane[l]) >> (8 * byte)) & 15U]} << (8 * byte);
      }
      return wrap(word);
    });
  }
  template <bool EvenOdd>
  static void pack_bytes(const i32& a, std::int32_t* words) {
    for (int word = 0; word < 4; ++word) {
      std::uint32_t packed = 0;
      for (int byte = 0; byte < 4; ++byte) {
        const int lane = EvenOdd ? word / 2 * 8 + byte * 2 + word % 2 : word * 4 + byte;
        packed |= (bits(a.lane[lane]) & 0xffU) << (8 * byte);
      }
      words[word] = wrap(packed);
    }
  }
  template <int Bits>
  static i32 unpack_codes(const std::byte* p) {
    return make<i32>([&](int l) {
      const int first = l * Bits / 8;
      const int last = (l * Bits + Bits - 1) / 8;
      const unsigned window = static_cast<unsigned>(p[first]) | static_cast<unsigned>(p[last]) << 8;
      return wrap((window >> (l * Bits % 8)) & ((1U << Bits) - 1U));
    });
  }
};

static_assert(Vocabulary<Scalar>);

}  // namespace
}  // namespace gqmm::cpu
