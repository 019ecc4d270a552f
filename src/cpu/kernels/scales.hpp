// Scales and biases of a strip, from how they are stored to [group][scale, bias][16 lanes] in float32.
#pragma once

#include "cpu/kernels/kernel_table.hpp"

namespace gqmm::cpu {
namespace {

template <ScaleType type>
inline constexpr int scale_bytes = type == ScaleType::float32                                  ? 4
                                   : type == ScaleType::float16 || type == ScaleType::bfloat16 ? 2
                                                                                               : 1;

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

/// Calls sink(group within the block, f32 of 16 rows) for groups [first, first + count) of a strip's scales or biases.
template <class V, ScaleType type, class Sink>
void for_each_group(const std::byte* base, std::int64_t stride, const WeightStrip& strip, std::int64_t first, std::int64_t count,
                    Sink sink) {
  constexpr int size = scale_bytes<type>;
  if (strip.packed) {
    for (std::int64_t g = 0; g < count; ++g) {
      const std::byte* line = base + (first + g) * lanes * size;
      sink(g, widen_scale<V, type>(size == 4   ? V::load_words(line, 16)
                                   : size == 2 ? V::load_u16(line, 16)
                                               : V::load_u8(line, 16)));
    }
    return;
  }
  constexpr int per_word = 4 / size;
  for (std::int64_t g = 0; g < count; g += 16 * per_word) {
    const std::int64_t left = count - g < 16 * per_word ? count - g : 16 * per_word;
    const auto bytes = static_cast<std::size_t>(left) * size;
    typename V::i32 block[16];
    for (int n = 0; n < lanes; ++n) {
      const std::byte* row = base + (n < strip.rows ? n : strip.rows - 1) * stride + (first + g) * size;
      if (bytes % 4 == 0) {
        block[n] = V::load_words(row, static_cast<int>(bytes / 4));
      } else {  // the last word is not all ours to read
        std::byte copy[64] = {};
        __builtin_memcpy(copy, row, bytes);
        block[n] = V::load_words(copy, 16);
      }
    }
    V::transpose(block);
    const auto field = [](typename V::i32 word, int part) {
      if constexpr (size == 4) {
        return word;
      } else {
        constexpr int mask = size == 2 ? 0xffff : 0xff;
        switch (part) {
          case 0: return V::bit_and(word, V::broadcast(mask));
          case 1: return V::bit_and(V::template shift_right<8 * size>(word), V::broadcast(mask));
          case 2: return V::bit_and(V::template shift_right<16>(word), V::broadcast(mask));
          default: return V::template shift_right<24>(word);
        }
      }
    };
    for (std::int64_t i = 0; i < left; ++i) {
      sink(g + i, widen_scale<V, type>(field(block[i / per_word], static_cast<int>(i % per_word))));
    }
  }
}

/// Scales of at least 2^47 could overflow a sum that is finite: |Σ x·u| < 2^55 · 128 · 255 (slice.hpp bounds |x|), and K/16 of
/// them.
inline constexpr std::int32_t largest_ordinary_scale = (127 + 47) << 23;

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
  for_each_group<V>(strip.scale_type, strip.scales, strip.scale_stride, strip, first, count, [&](std::int64_t g, f32 scale) {
    const f32 s = V::mul(V::mul(scale, factor), units);
    V::store(out + g * 2 * lanes, s);
    V::store(out + g * 2 * lanes + lanes, V::mul(s, minus_offset));
    largest = V::max(largest, V::bit_and(V::as_i32(s), magnitude));
  });
  if (strip.biases != nullptr) {
    for_each_group<V>(strip.bias_type, strip.biases, strip.bias_stride, strip, first, count, [&](std::int64_t g, f32 bias) {
      V::store(out + g * 2 * lanes + lanes, bias);
      largest = V::max(largest, V::bit_and(V::as_i32(bias), magnitude));
    });
  }
  return V::mask_at_least(largest, largest_ordinary_scale);
}

}  // namespace
}  // namespace gqmm::cpu
