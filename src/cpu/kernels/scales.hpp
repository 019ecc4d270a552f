// Scales and biases of a strip, from how they are stored to [group][scale, bias][16 lanes] in float32.
#pragma once

#include "cpu/kernels/kernel_table.hpp"

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

/// One array of a strip, scales or biases: where it lies and where the same array of the next strip lies (prefetched; it may be
/// the same).
struct GroupArray {
  const std::byte* base;
  std::int64_t stride;  // in place: bytes between rows
  int rows;             // in place: rows that exist
  const std::byte* next;
};

/// largest = max(largest, sink(g, f32 of 16 rows)) over elements [0, count). The running maximum is a value, not a capture: it
/// must stay in a register.
template <class V, ScaleType type, class Sink>
typename V::i32 for_each_in_place(const GroupArray& a, std::int64_t count, typename V::i32 largest, Sink sink) {
  constexpr int size = bytes_of(type);
  constexpr int per_word = 4 / size;
  constexpr std::int64_t per_block = 16 * per_word;
  for (std::int64_t g = 0; g < count; g += per_block) {
    const std::int64_t left = count - g < per_block ? count - g : per_block;
    typename V::i32 block[16];
    for (int n = 0; n < lanes; ++n) {
      const std::int64_t offset = (n < a.rows ? n : a.rows - 1) * a.stride + g * size;
      V::prefetch(a.next + offset);
      if (left == per_block) {
        block[n] = V::load_words(a.base + offset, 16);
      } else {
        std::byte copy[64] = {};  // the last word is not all ours to read
        __builtin_memcpy(copy, a.base + offset, static_cast<std::size_t>(left * size));
        block[n] = V::load_words(copy, 16);
      }
    }
    V::transpose(block);
    const auto emit = [&]<int part>(int word, typename V::i32 so_far) {
      const std::int64_t at = word * per_word + part;
      if constexpr (part < per_word) {
        return at < left ? V::max(so_far, sink(g + at, widen_scale<V, type>(element_of<V, size, part>(block[word])))) : so_far;
      } else {
        return so_far;
      }
    };
#pragma GCC unroll 16
    for (int word = 0; word < 16; ++word) {
      largest = emit.template operator()<0>(word, largest);
      largest = emit.template operator()<1>(word, largest);
      largest = emit.template operator()<2>(word, largest);
      largest = emit.template operator()<3>(word, largest);
    }
  }
  return largest;
}

template <class V, ScaleType type, class Sink>
typename V::i32 for_each_packed(const GroupArray& a, std::int64_t count, typename V::i32 largest, Sink sink) {
  constexpr int size = bytes_of(type);
  for (std::int64_t g = 0; g < count; ++g) {
    const std::int64_t line = g * lanes * size;
    V::prefetch(a.next + line);
    const std::byte* at = a.base + line;
    largest = V::max(largest, sink(g, widen_scale<V, type>(size == 4   ? V::load_words(at, 16)
                                                           : size == 2 ? V::load_u16(at, 16)
                                                                       : V::load_u8(at, 16))));
  }
  return largest;
}

/// Over groups [first, first + count) of an array whose type is known at run time.
template <class V, class Sink>
typename V::i32 for_each_group(ScaleType type, GroupArray a, bool packed, std::int64_t first, std::int64_t count,
                               typename V::i32 largest, Sink sink) {
  const std::int64_t offset = first * bytes_of(type) * (packed ? lanes : 1);
  a.base += offset;
  a.next += offset;
  const auto run = [&]<ScaleType known>() {
    return packed ? for_each_packed<V, known>(a, count, largest, sink) : for_each_in_place<V, known>(a, count, largest, sink);
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

/// scale' = unit · scale · factor and bias' = bias − offset · scale', so that ŵ = scale' · u + bias'. Returns the lanes that hold
/// one too large, infinite or NaN. The scales of `next`, if it has any, are prefetched.
template <class V>
[[gnu::noinline]] std::uint32_t pack_scales(const WeightStrip& strip, const WeightStrip& next, std::int64_t first,
                                            std::int64_t count, float unit, float offset, float* out) {
  using f32 = typename V::f32;
  using i32 = typename V::i32;
  const bool biased = strip.biases != nullptr;
  const GroupArray scales = {strip.scales, strip.scale_stride, strip.rows, next.scales != nullptr ? next.scales : strip.scales};
  i32 largest = V::broadcast(std::int32_t{0});
  const auto magnitude = [](f32 value) { return V::bit_and(V::as_i32(value), V::broadcast(0x7fffffff)); };
  largest = for_each_group<V>(strip.scale_type, scales, strip.packed, first, count, largest,
                              [out, biased, offset, unit, magnitude, factor = strip.scale_factor](std::int64_t g, f32 scale) {
                                const f32 s = V::mul(V::mul(scale, V::broadcast(factor)), V::broadcast(unit));
                                V::store(out + g * 2 * lanes, s);
                                if (!biased) {
                                  V::store(out + g * 2 * lanes + lanes, V::mul(s, V::broadcast(-offset)));
                                }
                                return magnitude(s);
                              });
  if (biased) {
    const GroupArray biases = {strip.biases, strip.bias_stride, strip.rows, next.biases != nullptr ? next.biases : strip.biases};
    largest = for_each_group<V>(strip.bias_type, biases, strip.packed, first, count, largest,
                                [out, magnitude](std::int64_t g, f32 bias) {
                                  V::store(out + g * 2 * lanes + lanes, bias);
                                  return magnitude(bias);
                                });
  }
  return V::mask_at_least(largest, largest_ordinary_scale);
}

}  // namespace
}  // namespace gqmm::cpu
