// Scales and biases of a strip, from how they are stored to [group][scale, bias][16 lanes] in float32.
#pragma once

#include "cpu/kernels/prefetch.hpp"

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

/// Part `part` of each word, for elements narrower than a word.
template <class V, int size, int part>
typename V::i32 element_of(typename V::i32 word) {
  constexpr std::int32_t mask = size == 1 ? 0xff : 0xffff;
  if constexpr (size == 4) {
    return word;
  } else if constexpr (part == 0) {
    return V::bit_and(word, V::broadcast(mask));
  } else if constexpr (part == 4 / size - 1) {
    return V::template shift_right<8 * size * part>(word);
  } else {
    return V::bit_and(V::template shift_right<8 * size * part>(word), V::broadcast(mask));
  }
}

/// One array of a strip: its scales or its biases.
struct GroupArray {
  const std::byte* base;
  std::int64_t stride;  // in place: bytes between rows
  int rows;             // in place: rows that exist
};

/// The larger of `so_far` and sink(g + part, f32) of every part of a word that holds elements of groups g, g + 1, …, as long as
/// they are below `count`.
template <class V, ScaleType type, int part = 0, class Sink>
[[gnu::always_inline]] inline typename V::i32 sink_word(typename V::i32 word, std::int64_t g, std::int64_t count,
                                                        typename V::i32 so_far, Sink sink) {
  constexpr int size = bytes_of(type);
  if constexpr (part * size < 4) {
    if (g + part < count) {
      so_far = V::max(so_far, sink(g + part, widen_scale<V, type>(element_of<V, size, part>(word))));
      so_far = sink_word<V, type, part + 1>(word, g, count, so_far, sink);
    }
  }
  return so_far;
}

/// largest = max(largest, sink(g, f32 of 16 rows)) over elements [0, count). The running maximum is a value, not a capture: it
/// must stay in a register.
template <class V, ScaleType type, class Sink>
typename V::i32 for_each_in_place(const GroupArray& a, std::int64_t count, typename V::i32 largest, Sink sink,
                                  Prefetcher<V>& ahead) {
  constexpr int size = bytes_of(type);
  constexpr int per_word = 4 / size;
  constexpr std::int64_t per_block = 16 * per_word;
  typename V::i32 block[16];
  std::int64_t g = 0;
  for (; a.rows == lanes && count - g >= per_block; g += per_block) {
#pragma GCC unroll 16
    for (int n = 0; n < lanes; ++n) {
      block[n] = V::load_words(a.base + n * a.stride + g * size, 16);
    }
    V::transpose(block);
#pragma GCC unroll 16
    for (int word = 0; word < 16; ++word) {
      largest = sink_word<V, type>(block[word], word * per_word, per_block, largest,
                                   [g, sink](std::int64_t at, typename V::f32 value) { return sink(g + at, value); });
      ahead.next();
    }
  }
  for (; g < count; g += per_block) {
    const std::int64_t left = count - g < per_block ? count - g : per_block;
    for (int n = 0; n < lanes; ++n) {
      const std::byte* row = a.base + (n < a.rows ? n : a.rows - 1) * a.stride + g * size;
      std::byte copy[64] = {};  // the last word is not all ours to read
      __builtin_memcpy(copy, row, static_cast<std::size_t>(left * size));
      block[n] = V::load_words(copy, 16);
    }
    V::transpose(block);
    for (int word = 0; word < 16; ++word) {
      largest = sink_word<V, type>(block[word], g + word * per_word, count, largest, sink);
    }
  }
  return largest;
}

template <class V, ScaleType type, class Sink>
typename V::i32 for_each_packed(const GroupArray& a, std::int64_t count, typename V::i32 largest, Sink sink,
                                Prefetcher<V>& ahead) {
  constexpr int size = bytes_of(type);
  constexpr int per_word = 4 / size;
  for (std::int64_t g = 0; g < count; ++g) {
    const std::byte* at = a.base + g * lanes * size;
    largest = V::max(largest, sink(g, widen_scale<V, type>(size == 4   ? V::load_words(at, 16)
                                                           : size == 2 ? V::load_u16(at, 16)
                                                                       : V::load_u8(at, 16))));
    if (g % per_word == 0) {
      ahead.next();
    }
  }
  return largest;
}

/// Over groups [first, first + count) of an array whose type is known at run time.
template <class V, class Sink>
typename V::i32 for_each_group(ScaleType type, GroupArray a, bool packed, std::int64_t first, std::int64_t count,
                               typename V::i32 largest, Sink sink, Prefetcher<V>& ahead) {
  a.base += first * bytes_of(type) * (packed ? lanes : 1);
  const auto run = [&]<ScaleType known>() {
    return packed ? for_each_packed<V, known>(a, count, largest, sink, ahead)
                  : for_each_in_place<V, known>(a, count, largest, sink, ahead);
  };
  switch (type) {
    case ScaleType::float32: return run.template operator()<ScaleType::float32>();
    case ScaleType::float16: return run.template operator()<ScaleType::float16>();
    case ScaleType::bfloat16: return run.template operator()<ScaleType::bfloat16>();
    case ScaleType::e8m0: return run.template operator()<ScaleType::e8m0>();
    default: return run.template operator()<ScaleType::e4m3>();
  }
}

/// Scales of at least 2^47 could overflow a sum that is finite: |Σ x·u| < 2^55 · 128 · 255 (slice.hpp bounds |x|), and there are
/// K/16 of them.
inline constexpr std::int32_t largest_ordinary_scale = (127 + 47) << 23;

/// How often pack_scales calls ahead.next(): once for each word of a row of scales and biases, about.
constexpr std::int64_t prefetches_of(const WeightStrip& strip, std::int64_t groups) {
  return groups * (bytes_of(strip.scale_type) + (strip.biases != nullptr ? bytes_of(strip.bias_type) : 0)) / 4;
}

/// scale' = (unit · factor) · scale and bias' = bias − offset · scale', so that ŵ = scale' · u + bias'. Returns the lanes that
/// hold one too large, infinite or NaN.
template <class V>
[[gnu::noinline]] std::uint32_t pack_scales(const WeightStrip& strip, std::int64_t first, std::int64_t count, float unit,
                                            float offset, float* out, Prefetcher<V> ahead) {
  using f32 = typename V::f32;
  using i32 = typename V::i32;
  const bool biased = strip.biases != nullptr;
  i32 largest = V::broadcast(std::int32_t{0});
  const auto magnitude = [](f32 value) { return V::bit_and(V::as_i32(value), V::broadcast(0x7fffffff)); };
  const auto store_scale = [out, biased, offset, magnitude, factor = strip.scale_factor * unit](std::int64_t g, f32 scale) {
    const f32 s = V::mul(scale, V::broadcast(factor));
    V::store(out + g * 2 * lanes, s);
    if (!biased) {
      V::store(out + g * 2 * lanes + lanes, V::mul(s, V::broadcast(-offset)));
    }
    return magnitude(s);
  };
  const auto store_bias = [out, magnitude](std::int64_t g, f32 bias) {
    V::store(out + g * 2 * lanes + lanes, bias);
    return magnitude(bias);
  };
  largest = for_each_group<V>(strip.scale_type, {strip.scales, strip.scale_stride, strip.rows}, strip.packed, first, count,
                              largest, store_scale, ahead);
  if (biased) {
    largest = for_each_group<V>(strip.bias_type, {strip.biases, strip.bias_stride, strip.rows}, strip.packed, first, count,
                                largest, store_bias, ahead);
  }
  return V::mask_at_least(largest, largest_ordinary_scale);
}

}  // namespace
}  // namespace gqmm::cpu
