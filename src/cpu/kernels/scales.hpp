// Scales and biases of a strip, from how they are stored to [group][scale, bias][16 lanes] in float32.
#pragma once

#include "cpu/kernels/kernel_table.hpp"

namespace gqmm::cpu {
namespace {

constexpr int bytes_of(ScaleType type) {
  return type == ScaleType::float32 ? 4 : type == ScaleType::float16 || type == ScaleType::bfloat16 ? 2 : 1;
}
template <ScaleType type>
inline constexpr int scale_bytes = bytes_of(type);

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

/// Calls sink(g, f32 of 16 rows) for elements [0, count) of 16 rows, `stride` bytes apart. `rows` of them exist.
template <class V, ScaleType type, class Sink>
void for_each_in_place(const std::byte* base, std::int64_t stride, int rows, std::int64_t count, Sink sink) {
  constexpr int size = scale_bytes<type>;
  constexpr int per_word = 4 / size;
  constexpr std::int64_t per_block = 16 * per_word;
  for (std::int64_t g = 0; g < count; g += per_block) {
    const std::int64_t left = count - g < per_block ? count - g : per_block;
    typename V::i32 block[16];
    if (left == per_block) {
      for (int n = 0; n < lanes; ++n) {
        block[n] = V::load_words(base + (n < rows ? n : rows - 1) * stride + g * size, 16);
      }
    } else {
      const auto bytes = static_cast<std::size_t>(left * size);  // the last word is not all ours to read
      for (int n = 0; n < lanes; ++n) {
        std::byte copy[64] = {};
        __builtin_memcpy(copy, base + (n < rows ? n : rows - 1) * stride + g * size, bytes);
        block[n] = V::load_words(copy, 16);
      }
    }
    V::transpose(block);
    const auto emit = [&]<int part>(int word) {
      const std::int64_t at = word * per_word + part;
      if (part < per_word && at < left) {
        sink(g + at, widen_scale<V, type>(element_of<V, size, part % per_word>(block[word])));
      }
    };
#pragma GCC unroll 16
    for (int word = 0; word < 16; ++word) {
      emit.template operator()<0>(word);
      emit.template operator()<1>(word);
      emit.template operator()<2>(word);
      emit.template operator()<3>(word);
    }
  }
}

template <class V, ScaleType type, class Sink>
void for_each_packed(const std::byte* base, std::int64_t count, Sink sink) {
  constexpr int size = scale_bytes<type>;
  for (std::int64_t g = 0; g < count; ++g) {
    const std::byte* line = base + g * lanes * size;
    sink(g, widen_scale<V, type>(size == 4 ? V::load_words(line, 16) : size == 2 ? V::load_u16(line, 16) : V::load_u8(line, 16)));
  }
}

/// Calls sink(group − first, f32 of 16 rows) for groups [first, first + count) of a strip's scales or biases.
template <class V, ScaleType type, class Sink>
void for_each_group(const std::byte* base, std::int64_t stride, const WeightStrip& strip, std::int64_t first, std::int64_t count,
                    Sink sink) {
  if (strip.packed) {
    for_each_packed<V, type>(base + first * lanes * scale_bytes<type>, count, sink);
  } else {
    for_each_in_place<V, type>(base + first * scale_bytes<type>, stride, strip.rows, count, sink);
  }
}

/// for_each_group for a type known at run time.
template <class V, class Sink>
void for_each_group(ScaleType type, const std::byte* base, std::int64_t stride, const WeightStrip& strip, std::int64_t first,
                    std::int64_t count, Sink sink) {
  switch (type) {
    case ScaleType::float32: return for_each_group<V, ScaleType::float32>(base, stride, strip, first, count, sink);
    case ScaleType::float16: return for_each_group<V, ScaleType::float16>(base, stride, strip, first, count, sink);
    case ScaleType::bfloat16: return for_each_group<V, ScaleType::bfloat16>(base, stride, strip, first, count, sink);
    case ScaleType::e8m0: return for_each_group<V, ScaleType::e8m0>(base, stride, strip, first, count, sink);
    case ScaleType::e4m3: return for_each_group<V, ScaleType::e4m3>(base, stride, strip, first, count, sink);
  }
}

/// Scales of at least 2^47 could overflow a sum that is finite: |Σ x·u| < 2^55 · 128 · 255 (slice.hpp bounds |x|), and there are
/// K/16 of them.
inline constexpr std::int32_t largest_ordinary_scale = (127 + 47) << 23;

/// scale' = unit · scale · factor and bias' = bias − offset · scale', so that ŵ = scale' · u + bias'. Returns the lanes that hold
/// one too large, infinite or NaN.
template <class V>
std::uint32_t pack_scales(const WeightStrip& strip, std::int64_t first, std::int64_t count, float unit, float offset,
                          float* out) {
  using f32 = typename V::f32;
  const f32 factor = V::broadcast(strip.scale_factor);
  const f32 units = V::broadcast(unit);
  const f32 minus_offset = V::broadcast(-offset);
  const auto magnitude = V::broadcast(0x7fffffff);
  auto largest = V::broadcast(std::int32_t{0});
  const bool biased = strip.biases != nullptr;
  for_each_group<V>(strip.scale_type, strip.scales, strip.scale_stride, strip, first, count, [&](std::int64_t g, f32 scale) {
    const f32 s = V::mul(V::mul(scale, factor), units);
    V::store(out + g * 2 * lanes, s);
    if (!biased) {
      V::store(out + g * 2 * lanes + lanes, V::mul(s, minus_offset));
    }
    largest = V::max(largest, V::bit_and(V::as_i32(s), magnitude));
  });
  if (biased) {
    for_each_group<V>(strip.bias_type, strip.biases, strip.bias_stride, strip, first, count, [&](std::int64_t g, f32 bias) {
      V::store(out + g * 2 * lanes + lanes, bias);
      largest = V::max(largest, V::bit_and(V::as_i32(bias), magnitude));
    });
  }
  return V::mask_at_least(largest, largest_ordinary_scale);
}

}  // namespace
}  // namespace gqmm::cpu
