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

/// One array of a strip: its scales or its biases.
struct GroupArray {
  const std::byte* base;
  std::int64_t stride;  // in place: bytes between rows
  int rows;             // in place: rows that exist
  std::int64_t groups;  // of a row, from base on: more than are asked for may be read
};

/// Calls sink(g + part, f32) for every part of a word that holds elements of groups g, g + 1, …, as long as they are below
/// `count`. Returns the bits of all of them ORed to `bits`.
template <class V, ScaleType type, int part = 0, class Sink>
[[gnu::always_inline]] inline typename V::i32 sink_word(typename V::i32 word, std::int64_t g, std::int64_t count,
                                                        typename V::i32 bits, Sink sink) {
  constexpr int size = bytes_of(type);
  if constexpr (part * size < 4) {
    if (g + part < count) {
      bits = V::bit_or(bits, V::as_i32(sink(g + part, widen_part<V, type, part>(word))));
      bits = sink_word<V, type, part + 1>(word, g, count, bits, sink);
    }
  }
  return bits;
}

/// ORs sink(g, f32 of 16 rows) of elements [0, count) to `bits`, a value, not a capture: it must stay in a register. So must the
/// prefetcher, which is handed back.
template <class V, ScaleType type, class Sink>
typename V::i32 for_each_in_place(const GroupArray& a, std::int64_t count, typename V::i32 bits, Sink sink,
                                  Prefetcher<V>& prefetcher) {
  constexpr int size = bytes_of(type);
  constexpr int per_word = 4 / size;
  constexpr std::int64_t per_block = 16 * per_word;
  Prefetcher<V> ahead = prefetcher;
  typename V::i32 block[16];
  std::int64_t g = 0;
  for (; a.rows == lanes && g < count && a.groups - g >= per_block; g += per_block) {
#pragma GCC unroll 16
    for (int n = 0; n < lanes; ++n) {
      block[n] = V::load_words(a.base + n * a.stride + g * size, 16);
    }
    V::transpose(block);
    const auto sink_block = [&](std::int64_t wanted) __attribute__((always_inline)) {
#pragma GCC unroll 16
      for (int word = 0; word < 16; ++word) {
        bits = sink_word<V, type>(block[word], word * per_word, wanted, bits,
                                  [g, sink](std::int64_t at, typename V::f32 value) { return sink(g + at, value); });
        ahead.next();
      }
    };
    if (count - g >= per_block) {
      sink_block(per_block);
    } else {
      sink_block(count - g);
    }
  }
  for (; g < count; g += per_block) {
    const int left = static_cast<int>(count - g < per_block ? count - g : per_block);
    for (int n = 0; n < lanes; ++n) {
      block[n] = V::load_bytes(a.base + (n < a.rows ? n : a.rows - 1) * a.stride + g * size, left * size);
    }
    V::transpose(block);
    for (int word = 0; word * per_word < left; ++word) {
      bits = sink_word<V, type>(block[word], g + word * per_word, count, bits, sink);
      ahead.next();
    }
  }
  prefetcher = ahead;
  return bits;
}

template <class V, ScaleType type, class Sink>
typename V::i32 for_each_packed(const GroupArray& a, std::int64_t count, typename V::i32 bits, Sink sink,
                                Prefetcher<V>& prefetcher) {
  constexpr int size = bytes_of(type);
  constexpr int per_word = 4 / size;
  Prefetcher<V> ahead = prefetcher;
  for (std::int64_t g = 0; g < count; ++g) {
    const std::byte* at = a.base + g * lanes * size;
    bits = V::bit_or(bits, V::as_i32(sink(g, widen_scale<V, type>(size == 4   ? V::load_words(at, 16)
                                                                  : size == 2 ? V::load_u16(at, 16)
                                                                              : V::load_u8(at, 16)))));
    if (g % per_word == 0) {
      ahead.next();
    }
  }
  prefetcher = ahead;
  return bits;
}

/// Over groups [first, first + count) of an array whose type is known at run time. What is passed in memory is copied member by
/// member: a wide load of what was just stored in parts waits until the stores have reached the cache.
template <class V, class Sink>
typename V::i32 for_each_group(ScaleType type, const GroupArray& whole, bool packed, std::int64_t first, std::int64_t count,
                               typename V::i32 bits, Sink sink, Prefetcher<V>& ahead) {
  GroupArray a = whole;
  a.base += first * bytes_of(type) * (packed ? lanes : 1);
  a.groups -= first;
  const auto run = [&]<ScaleType known>() {
    return packed ? for_each_packed<V, known>(a, count, bits, sink, ahead)
                  : for_each_in_place<V, known>(a, count, bits, sink, ahead);
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

/// The lanes of vectors [0, count), in steps of `step`, that hold a magnitude of at least largest_ordinary_scale, an infinity or
/// a NaN.
template <class V>
std::uint32_t lanes_not_ordinary(const float* vectors, std::int64_t count, int step) {
  auto largest = V::broadcast(std::int32_t{0});
  for (std::int64_t i = 0; i < count; i += step) {
    largest = V::max(largest, V::bit_and(V::as_i32(V::load(vectors + i * lanes)), V::broadcast(0x7fffffff)));
  }
  return V::mask_at_least(largest, largest_ordinary_scale);
}

/// How often pack_scales calls ahead.next(): once for each word of a row of scales and biases, about.
constexpr std::int64_t prefetches_of(const WeightStrip& strip, std::int64_t groups) {
  return groups * (bytes_of(strip.scale_type) + (strip.biases != nullptr ? bytes_of(strip.bias_type) : 0)) / 4;
}

/// scale' = (unit · factor) · scale → out[group][scale', bias][16]; without biases, their place stays as it is. Returns the lanes
/// that hold one too large, infinite or NaN.
template <class V>
[[gnu::noinline]] std::uint32_t pack_scales(const WeightStrip& strip, std::int64_t first, std::int64_t count, float unit,
                                            float* out, Prefetcher<V> ahead) {
  using f32 = typename V::f32;
  // Captures scalars: they are passed in registers, which a vector captured would not be.
  const auto store_scale = [out, factor = strip.scale_factor * unit](std::int64_t g, f32 scale) {
    const f32 s = V::mul(scale, V::broadcast(factor));
    V::store(out + g * 2 * lanes, s);
    return s;
  };
  const auto store_bias = [out](std::int64_t g, f32 bias) {
    V::store(out + g * 2 * lanes + lanes, bias);
    return bias;
  };
  auto bits = for_each_group<V>(strip.scale_type, {strip.scales, strip.scale_stride, strip.rows, strip.groups}, strip.packed,
                                first, count, V::broadcast(std::int32_t{0}), store_scale, ahead);
  if (strip.biases != nullptr) {
    bits = for_each_group<V>(strip.bias_type, {strip.biases, strip.bias_stride, strip.rows, strip.groups}, strip.packed, first,
                             count, bits, store_bias, ahead);
  }
  // All magnitudes ORed are no less than the largest: usually that settles it.
  const bool settled = V::mask_at_least(V::bit_and(bits, V::broadcast(0x7fffffff)), largest_ordinary_scale) == 0;
  return settled ? 0 : lanes_not_ordinary<V>(out, 2 * count, strip.biases != nullptr ? 1 : 2);
}

}  // namespace
}  // namespace gqmm::cpu
