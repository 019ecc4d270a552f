// Scales and biases of a strip, from how they are stored to [group][scale, bias][16 lanes] in float32.
#pragma once

#include "cpu/kernels/copy_rows.hpp"
#include "cpu/kernels/unrolled.hpp"
#include "formats/format.hpp"

#include <algorithm>

namespace gqmm::cpu {
namespace {

constexpr int bytes_of(ScaleType type) {
  return type == ScaleType::float32 ? 4 : type == ScaleType::float16 || type == ScaleType::bfloat16 ? 2 : 1;
}
/// The low bits of each lane as the float that they stand for.
template <class V, ScaleType type>
typename V::f32 widen_scale(typename V::i32 stored) {
  if constexpr (type == ScaleType::float32) {
    return V::as_f32(stored);
  } else if constexpr (type == ScaleType::float16) {
    return V::from_f16(stored);
  } else if constexpr (type == ScaleType::bfloat16) {
    return V::as_f32(V::template shift_left<16>(stored));
  } else if constexpr (type == ScaleType::e8m0) {
    // 2^(byte − 127) has the byte as its exponent; 2^−127 is the subnormal 0x00400000.
    return V::as_f32(V::max(V::template shift_left<23>(stored), V::broadcast(0x00400000)));
  } else {
    // E4M3: the exponent's bias moves from 7 to 127 by an exact product; 0x7f and 0xff are NaN.
    const auto magnitude = V::bit_and(stored, V::broadcast(0x7f));
    const auto value = V::mul(V::as_f32(V::template shift_left<20>(magnitude)), V::broadcast(0x1p120F));
    const auto sign = V::template shift_left<24>(V::bit_and(stored, V::broadcast(0x80)));
    const auto is_nan = V::template shift_right<7>(V::add(magnitude, V::broadcast(1)));  // 1 or 0
    const auto nan = V::bit_and(V::sub(V::broadcast(0), is_nan), V::broadcast(0x7fc00000));
    return V::as_f32(V::bit_or(V::bit_or(V::as_i32(value), sign), nan));
  }
}

/// Part `part` of each word, for elements narrower than a word, as the float that it stands for.
template <class V, ScaleType type, int part>
typename V::f32 widen_part(typename V::i32 word) {
  constexpr int bits = 8 * bytes_of(type);
  if constexpr (type == ScaleType::bfloat16 && part == 1) {
    return V::as_f32(V::bit_and(word, V::broadcast(static_cast<std::int32_t>(0xffff0000U))));
  } else if constexpr (type == ScaleType::float32 || type == ScaleType::bfloat16) {  // what lies above is shifted out
    return widen_scale<V, type>(word);
  } else {
    typename V::i32 element = word;
    if constexpr (part > 0) {
      element = V::template shift_right<bits * part>(element);
    }
    if constexpr (bits * (part + 1) < 32) {
      element = V::bit_and(element, V::broadcast((1 << bits) - 1));
    }
    return widen_scale<V, type>(element);
  }
}

/// One element of each of 16 rows, side by side.
template <class V, ScaleType type>
typename V::f32 load_packed_scales(const std::byte* at) {
  constexpr int size = bytes_of(type);
  return widen_scale<V, type>(size == 4 ? V::load_words(at, 16) : size == 2 ? V::load_u16(at, 16) : V::load_u8(at, 16));
}

/// What is read of a row at a time.
inline constexpr int piece_bytes = short_row;
constexpr int groups_of_piece(ScaleType type) { return piece_bytes / bytes_of(type); }

/// Calls sink(group, f32 of 16 rows) for the groups of a piece, whose first row is at `at`.
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

/// function.operator()<type>() for a type that is known at run time, one that such scales can have.
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
      default: return function.template operator()<ScaleType::float32>();
    }
  }
}

/// Scales of at least 2^47 could overflow a sum that is finite: |Σ x·u| < 2^55 · 128 · 255 (slice.hpp bounds |x|), and there are
/// K/16 of them.
inline constexpr std::int32_t largest_ordinary_scale = (127 + 47) << 23;

/// The lanes of vectors [0, count), in steps of `step`, that hold a magnitude of at least largest_ordinary_scale, an infinity or
/// a NaN.
template <class V>
[[gnu::noinline, gnu::cold]] std::uint32_t lanes_not_ordinary(const float* vectors, std::int64_t count, int step) {
  auto largest = V::broadcast(std::int32_t{0});
  for (std::int64_t i = 0; i < count; i += step) {
    largest = V::max(largest, V::bit_and(V::as_i32(V::load(vectors + i * lanes)), V::broadcast(0x7fffffff)));
  }
  return V::mask_at_least(largest, largest_ordinary_scale);
}

// NOLINTBEGIN(readability-non-const-parameter): clang-tidy does not see that a panel writes to `out`

/// Where scales and biases of some groups go: out[group][scale, bias][16]. Without biases, their place stays as it is.
template <class V>
class ScalePanel {
 public:
  using f32 = typename V::f32;
  /// Scales will be multiplied by `factor`.
  ScalePanel(float* out, float factor) : out_(out), factor_(V::broadcast(factor)) {}

  [[gnu::always_inline]] void put_scale(std::int64_t group, f32 scale) { put(2 * group, V::mul(scale, factor_)); }
  [[gnu::always_inline]] void put_bias(std::int64_t group, f32 bias) { put(2 * group + 1, bias); }

  /// The lanes that hold one too large, infinite or NaN, once all groups are here.
  [[gnu::always_inline]] std::uint32_t exceptional_lanes(std::int64_t groups, bool has_biases) const {
    // All magnitudes ORed are no less than the largest: usually that settles it.
    if (V::mask_at_least(V::bit_and(bits_, V::broadcast(0x7fffffff)), largest_ordinary_scale) == 0) [[likely]] {
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

/// Calls sink(group, f32 of 16 rows) for groups first + [0, count) of an array that begins at `base`.
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
    // The last piece of a row begins earlier than it would, where it lies within the row.
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

/// Scales, times unit and the strip's factor, and biases of groups [first, first + count) → out[group][scale, bias][16]; without
/// biases, their place stays as it is. Returns ScalePanel::exceptional_lanes.
template <class V, ScaleEncoding encoding>
[[gnu::noinline]] std::uint32_t pack_scales(const WeightStrip& strip, std::int64_t first, std::int64_t count, float unit,
                                            float* out) {
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

/// Groups that pack_few_scales packs: whole pieces of every type.
template <class F>
inline constexpr int few_groups = F::scale_encoding == ScaleEncoding::floating ? 8 : 16;

/// Whether a strip has what pack_few_scales reads.
template <class F>
bool has_few_groups(const WeightStrip& strip) {
  return (strip.packed || strip.rows == lanes) && strip.groups >= few_groups<F> &&
         (!F::has_biases || strip.bias_type == strip.scale_type);
}

/// for_each_group for few_groups of a strip that has them.
template <class V, class F, ScaleType type, class Sink>
[[gnu::always_inline]] inline void for_each_of_few(const WeightStrip& strip, const std::byte* base, std::int64_t stride,
                                                   std::int64_t first, Sink sink) {
  constexpr int size = bytes_of(type);
  constexpr int piece = groups_of_piece(type);
  static_assert(few_groups<F> % piece == 0);
  const std::byte* at = base + first * size * (strip.packed ? lanes : 1);
  if (strip.packed) {
#pragma GCC unroll 1
    for (int g = 0; g < few_groups<F>; ++g) {
      sink(g, load_packed_scales<V, type>(at + g * lanes * size));
    }
  } else {
#pragma GCC unroll 1
    for (int g = 0; g < few_groups<F>; g += piece) {
      for_each_in_piece<V, type>(at + g * size, stride,
                                 [&](int i, typename V::f32 value) __attribute__((always_inline)) { sink(g + i, value); });
    }
  }
}

/// pack_scales for few_groups from `first` on. Inlined between the dot products of the decode kernel, its loads and shuffles run
/// beside them; a call for all groups of a strip takes twice the time.
template <class V, class F>
[[gnu::always_inline]] inline std::uint32_t pack_few_scales(const WeightStrip& strip, std::int64_t first, float* out) {
  using f32 = typename V::f32;
  ScalePanel<V> panel(out, strip.scale_factor * F::integer.unit);
  with_scale_type<F::scale_encoding>(strip.scale_type, [&]<ScaleType type>() __attribute__((always_inline)) {
    for_each_of_few<V, F, type>(strip, strip.scales, strip.scale_stride, first,
                                [&](int g, f32 scale) __attribute__((always_inline)) { panel.put_scale(g, scale); });
    if constexpr (F::has_biases) {
      for_each_of_few<V, F, type>(strip, strip.biases, strip.bias_stride, first,
                                  [&](int g, f32 bias) __attribute__((always_inline)) { panel.put_bias(g, bias); });
    }
  });
  return panel.exceptional_lanes(few_groups<F>, F::has_biases);
}

// NOLINTEND(readability-non-const-parameter)

}  // namespace
}  // namespace gqmm::cpu
