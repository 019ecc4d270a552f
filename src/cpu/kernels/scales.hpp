// Converts scales and biases of a strip from their stored form to float32: [group][scale, bias][16 lanes].
#pragma once

#include "assertion.hpp"
#include "cpu/kernels/copy_strip_rows.hpp"
#include "cpu/kernels/unrolled.hpp"
#include "formats/format.hpp"

#include <algorithm>

namespace gqmm::cpu {
namespace {

constexpr int bytes_of(ScaleType type) {
  return type == ScaleType::float32 ? 4 : type == ScaleType::float16 || type == ScaleType::bfloat16 ? 2 : 1;
}
/// float_from_small (formats/small_float.hpp) for the code in each lane. The bits above the code must be zero.
template <class V, SmallFloat type>
typename V::f32 from_small_float(typename V::i32 code) {
  using i32 = typename V::i32;
  constexpr int sign_bit = type.bits() - 1;
  constexpr std::int32_t mask = (1 << sign_bit) - 1;
  constexpr float unit = type.unit();
  const i32 magnitude = V::bit_and(code, V::broadcast(mask));
  // An exact product changes the exponent's bias to that of float32.
  const auto value = V::mul(V::as_f32(V::template shift_left<23 - type.mantissa_bits>(magnitude)), V::broadcast(unit));
  const i32 sign = V::template shift_left<31 - sign_bit>(V::bit_and(code, V::broadcast(1 << sign_bit)));
  if constexpr (type.special == SpecialCodes::none) {
    return V::as_f32(V::bit_or(V::as_i32(value), sign));
  } else {
    constexpr std::int32_t lacks = (1 << sign_bit) - static_cast<std::int32_t>(type.first_special());
    const i32 is_special = V::template shift_right<sign_bit>(V::add(magnitude, V::broadcast(lacks)));  // 1 or 0
    // In a type with infinities, the mantissa tells them from NaN, and it is already in place.
    constexpr std::int32_t ones = type.special == SpecialCodes::infinities ? 0x7f800000 : 0x7fc00000;
    const i32 special = V::bit_and(V::sub(V::broadcast(0), is_special), V::broadcast(ones));
    return V::as_f32(V::bit_or(V::bit_or(V::as_i32(value), sign), special));
  }
}

/// Returns the float that the low bits of each lane stand for.
template <class V, ScaleType type>
typename V::f32 widen_scale(typename V::i32 stored) {
  if constexpr (type == ScaleType::float32) {
    return V::as_f32(stored);
  } else if constexpr (type == ScaleType::float16) {
    return V::from_f16(stored);
  } else if constexpr (type == ScaleType::bfloat16) {
    return V::as_f32(V::template shift_left<16>(stored));
  } else if constexpr (type == ScaleType::e8m0) {
    // 2^(byte − 127) has the byte as its exponent. 2^−127 is the subnormal 0x00400000.
    return V::as_f32(V::max(V::template shift_left<23>(stored), V::broadcast(0x00400000)));
  } else {
    static_assert(type == ScaleType::e4m3);
    return from_small_float<V, e4m3>(stored);
  }
}

/// Returns element number `part` of `bits` bits of each word; the bits above it are zero.
template <class V, int bits, int part>
typename V::i32 element_of(typename V::i32 word) {
  typename V::i32 element = word;
  if constexpr (part > 0) {
    element = V::template shift_right<bits * part>(element);
  }
  if constexpr (bits * (part + 1) < 32) {
    element = V::bit_and(element, V::broadcast((1 << bits) - 1));
  }
  return element;
}

/// Returns element number `part` of each word as the float that it stands for. It serves elements that are narrower than a word,
/// and whole words.
template <class V, ScaleType type, int part>
typename V::f32 widen_part(typename V::i32 word) {
  constexpr int bits = 8 * bytes_of(type);
  if constexpr (type == ScaleType::bfloat16 && part == 1) {
    return V::as_f32(V::bit_and(word, V::broadcast(static_cast<std::int32_t>(0xffff0000U))));
  } else if constexpr (type == ScaleType::float32 || type == ScaleType::bfloat16) {
    // The shift in widen_scale removes what lies above.
    return widen_scale<V, type>(word);
  } else {
    return widen_scale<V, type>(element_of<V, bits, part>(word));
  }
}

/// The same for byte number `byte` of each word, which is a small float.
template <class V, SmallFloat type, int byte>
typename V::f32 small_float_part(typename V::i32 word) {
  return from_small_float<V, type>(element_of<V, 8, byte>(word));
}

/// Loads one element of each of 16 rows of w; packed weights hold them side by side.
template <class V, ScaleType type>
typename V::f32 load_packed_scales(const std::byte* at) {
  constexpr int size = bytes_of(type);
  return widen_scale<V, type>(size == 4 ? V::load_words(at, 16) : size == 2 ? V::load_u16(at, 16) : V::load_u8(at, 16));
}

/// A piece: the bytes of a row that are read at a time.
inline constexpr int piece_bytes = short_row;
constexpr int groups_of_piece(ScaleType type) { return piece_bytes / bytes_of(type); }

/// Calls sink(group, f32 of 16 rows) for the groups of a piece. `at` is the address of the piece in the first row.
template <class V, ScaleType type, class Sink>
[[gnu::always_inline]] inline void for_each_in_piece(const std::byte* at, std::int64_t stride, Sink sink) {
  constexpr int per_word = 4 / bytes_of(type);
  typename V::i32 words[4];
  V::load_transposed(at, stride, words);
  unrolled<4>([&]<int word>() __attribute__((always_inline)) {
    unrolled<per_word>(
        [&]<int part>() __attribute__((always_inline)) { sink(word * per_word + part, widen_part<V, type, part>(words[word])); });
  });
}

/// Calls function.operator()<type>() for a type that is known at run time. It must be a type that scales of this encoding can
/// have.
template <ScaleEncoding encoding, class Function>
[[gnu::always_inline]] inline void with_scale_type(ScaleType type, Function function) {
  if constexpr (encoding == ScaleEncoding::e8m0) {
    function.template operator()<ScaleType::e8m0>();
  } else if constexpr (encoding == ScaleEncoding::e4m3) {
    function.template operator()<ScaleType::e4m3>();
  } else {
    switch (type) {
      case ScaleType::bfloat16: return function.template operator()<ScaleType::bfloat16>();
      case ScaleType::float16: return function.template operator()<ScaleType::float16>();
      default: GQMM_ASSERT(type == ScaleType::float32); return function.template operator()<ScaleType::float32>();
    }
  }
}

/// Scales and biases from 2^47 on could overflow a sum that is finite: |Σ x·u| < 2^55 · 128 · 255 (slice.hpp bounds |x|), and
/// there are K/16 such sums.
inline constexpr std::int32_t smallest_exceptional_scale = (127 + 47) << 23;

/// Returns a mask of the lanes whose magnitude is at least smallest_exceptional_scale in one of the vectors [0, count). As
/// integers, infinities and NaN are larger than that. A step of 2 skips the places of biases, which formats without biases do not
/// write.
template <class V>
[[gnu::noinline, gnu::cold]] std::uint32_t lanes_not_ordinary(const float* vectors, std::int64_t count, int step) {
  auto largest = V::broadcast(std::int32_t{0});
  for (std::int64_t i = 0; i < count; i += step) {
    largest = V::max(largest, V::bit_and(V::as_i32(V::load(vectors + i * lanes)), V::broadcast(0x7fffffff)));
  }
  return V::mask_at_least(largest, smallest_exceptional_scale);
}

// NOLINTBEGIN(readability-non-const-parameter): clang-tidy does not see that a panel writes to `out`

/// Writes scales and biases of some groups to out[group][scale, bias][16]. Without biases, their place keeps its contents.
template <class V>
class ScalePanel {
 public:
  using f32 = typename V::f32;
  /// Multiplies every scale by `factor`.
  ScalePanel(float* out, float factor) : out_(out), factor_(V::broadcast(factor)) {}

  [[gnu::always_inline]] void put_scale(std::int64_t group, f32 scale) { put(2 * group, V::mul(scale, factor_)); }
  [[gnu::always_inline]] void put_bias(std::int64_t group, f32 bias) { put(2 * group + 1, bias); }

  /// Returns a mask of the lanes whose scale or bias is too large, infinite or NaN. Call it after all groups have been written.
  [[gnu::always_inline]] std::uint32_t exceptional_lanes(std::int64_t groups, bool has_biases) const {
    // The OR of all magnitudes is not less than the largest one. This usually settles the question.
    if (V::mask_at_least(V::bit_and(bits_, V::broadcast(0x7fffffff)), smallest_exceptional_scale) == 0) [[likely]] {
      return 0;
    }
    return lanes_not_ordinary<V>(out_, 2 * groups, has_biases ? 1 : 2);
  }

 private:
  [[gnu::always_inline]] void put(std::int64_t vector, f32 value) {
    V::store(out_ + vector * lanes, value);
    bits_ = V::bit_or(bits_, V::as_i32(value));
  }

  float* out_;
  f32 factor_;
  typename V::i32 bits_ = V::broadcast(std::int32_t{0});
};

/// Calls sink(group, f32 of 16 rows) for the groups first + [0, count) of an array that begins at `base`.
template <class V, ScaleType type, class Sink>
[[gnu::always_inline]] inline void for_each_group(const WeightStrip& strip, const std::byte* base, std::int64_t stride,
                                                  std::int64_t first, std::int64_t count, Sink sink) {
  constexpr int size = bytes_of(type);
  constexpr int piece = groups_of_piece(type);
  if (strip.packed) {
    for (std::int64_t g = 0; g < count; ++g) {
      sink(g, load_packed_scales<V, type>(base + (first + g) * lanes * size));
    }
    return;
  }
  const bool has_pieces = strip.rows == lanes && strip.groups >= piece;
  for (std::int64_t g = 0; g < count; g += piece) {
    // The last piece of a row begins earlier if it would reach beyond the end of the row.
    const std::int64_t from = has_pieces ? std::min(first + g, strip.groups - piece) : first + g;
    alignas(piece_bytes) std::byte copy[lanes * piece_bytes];
    if (!has_pieces) {
      const std::int64_t bytes = std::min<std::int64_t>(piece_bytes, (strip.groups - from) * size);
      copy_short_rows(base + from * size, stride, strip.rows, bytes, copy);
    }
    for_each_in_piece<V, type>(has_pieces ? base + from * size : copy, has_pieces ? stride : piece_bytes,
                               [&](int i, typename V::f32 value) __attribute__((always_inline)) {
                                 const std::int64_t at = from + i - first;
                                 if (at >= g && at < count) {
                                   sink(at, value);
                                 }
                               });
  }
}

/// Converts the groups [first, first + count) to out[group][scale, bias][16]. Scales are multiplied by `unit` and the strip's
/// factor. Without biases, their place keeps its contents. Returns ScalePanel::exceptional_lanes.
template <class V, ScaleEncoding encoding>
[[gnu::noinline]] std::uint32_t pack_scales(const WeightStrip& strip, std::int64_t first, std::int64_t count, float unit,
                                            float* out) {
  GQMM_ASSERT(first >= 0 && count >= 1 && first + count <= strip.groups);
  using f32 = typename V::f32;
  ScalePanel<V> panel(out, strip.scale_factor * unit);
  with_scale_type<encoding>(strip.scale_type, [&]<ScaleType type>() __attribute__((always_inline)) {
    for_each_group<V, type>(strip, strip.scales, strip.scale_stride, first, count,
                            [&](std::int64_t g, f32 scale) __attribute__((always_inline)) { panel.put_scale(g, scale); });
  });
  if (strip.biases != nullptr) {
    with_scale_type<encoding>(strip.bias_type, [&]<ScaleType type>() __attribute__((always_inline)) {
      for_each_group<V, type>(strip, strip.biases, strip.bias_stride, first, count,
                              [&](std::int64_t g, f32 bias) __attribute__((always_inline)) { panel.put_bias(g, bias); });
    });
  }
  return panel.exceptional_lanes(count, strip.biases != nullptr);
}

/// The number of groups that pack_gemv_scales packs: whole pieces for every type.
template <class F>
inline constexpr int gemv_scale_groups = F::scale_encoding == ScaleEncoding::floating ? 8 : 16;

/// Whether a strip has all that pack_gemv_scales reads.
template <class F>
bool has_gemv_scale_groups(const WeightStrip& strip) {
  return (strip.packed || strip.rows == lanes) && strip.groups >= gemv_scale_groups<F> &&
         (!F::has_biases || strip.bias_type == strip.scale_type);
}

/// for_each_group for gemv_scale_groups of a strip that has them.
template <class V, class F, ScaleType type, class Sink>
[[gnu::always_inline]] inline void for_each_gemv_group(const WeightStrip& strip, const std::byte* base, std::int64_t stride,
                                                       std::int64_t first, Sink sink) {
  constexpr int size = bytes_of(type);
  constexpr int piece = groups_of_piece(type);
  static_assert(gemv_scale_groups<F> % piece == 0);
  const std::byte* at = base + first * size * (strip.packed ? lanes : 1);
  if (strip.packed) {
#pragma GCC unroll 1
    for (int g = 0; g < gemv_scale_groups<F>; ++g) {
      sink(g, load_packed_scales<V, type>(at + g * lanes * size));
    }
  } else {
#pragma GCC unroll 1
    for (int g = 0; g < gemv_scale_groups<F>; g += piece) {
      for_each_in_piece<V, type>(at + g * size, stride,
                                 [&](int i, typename V::f32 value) __attribute__((always_inline)) { sink(g + i, value); });
    }
  }
}

/// pack_scales for gemv_scale_groups groups from `first` on. It is inlined between the dot products of the decode kernel, so that
/// its loads and shuffles run beside them. One call for all groups of a strip would take twice the time.
template <class V, class F>
[[gnu::always_inline]] inline std::uint32_t pack_gemv_scales(const WeightStrip& strip, std::int64_t first, float* out) {
  GQMM_ASSERT(has_gemv_scale_groups<F>(strip) && first >= 0 && first + gemv_scale_groups<F> <= strip.groups);
  using f32 = typename V::f32;
  ScalePanel<V> panel(out, strip.scale_factor * F::integer.unit);
  with_scale_type<F::scale_encoding>(strip.scale_type, [&]<ScaleType type>() __attribute__((always_inline)) {
    for_each_gemv_group<V, F, type>(strip, strip.scales, strip.scale_stride, first,
                                    [&](int g, f32 scale) __attribute__((always_inline)) { panel.put_scale(g, scale); });
    if constexpr (F::has_biases) {
      for_each_gemv_group<V, F, type>(strip, strip.biases, strip.bias_stride, first,
                                      [&](int g, f32 bias) __attribute__((always_inline)) { panel.put_bias(g, bias); });
    }
  });
  return panel.exceptional_lanes(gemv_scale_groups<F>, F::has_biases);
}

// NOLINTEND(readability-non-const-parameter)

}  // namespace
}  // namespace gqmm::cpu
