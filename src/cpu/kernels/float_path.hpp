// The float path: weights dequantized to float32, a strip and a block of k at a time, then multiplied by fma.
//
//     c[r][n] += Σ_{k in block} x[r][k] · ŵ[k][n]        the block's sum runs in ascending k from zero and is then added to c
//
// It serves formats that have no integer form, weights packed along N, dense weights, and the exceptional groups of the others.
#pragma once

#include "cpu/kernels/scales.hpp"
#include "cpu/kernels/slice.hpp"
#include "cpu/kernels/unpack.hpp"

namespace gqmm::cpu {
namespace {

/// value(code) of the byte in each lane, as float32.
template <class V, class F>
typename V::f32 code_value(typename V::i32 code) {
  if constexpr (F::integer.exists) {
    return V::sub(V::to_f32(code), V::broadcast(static_cast<float>(F::integer.offset)));
  } else {
    return widen_scale<V, ScaleType::e4m3>(code);
  }
}

/// unit of the value that code_value returns.
template <class F>
inline constexpr float value_unit = F::integer.exists ? F::integer.unit : 1.0F;

/// Calls sink(k within the unit, i32 with the code's byte u) for every k of the unit whose words are in[0], in[1], …
template <class V, class F, class Sink>
void for_each_code(const typename V::i32* in, Sink sink) {
  using U = Unit<V, F>;
  using i32 = typename V::i32;
  i32 source[U::sources];
  U::to_sources(in, source);
  const i32 mask = V::broadcast(0xff);
  unrolled<U::steps>([&]<int step>() {
    const i32 four = U::template step<step>(source);
    const i32 code[4] = {V::bit_and(four, mask), V::bit_and(V::template shift_right<8>(four), mask),
                         V::bit_and(V::template shift_right<16>(four), mask), V::template shift_right<24>(four)};
    for (int byte = 0; byte < 4; ++byte) {
      sink(U::even_odd ? step / 2 * 8 + byte * 2 + step % 2 : step * 4 + byte, code[byte]);
    }
  });
}

/// Is one of the E4M3 bytes of words[0], words[1], … a NaN (0x7f or 0xff)?
template <class V, int words>
bool any_e4m3_nan(const typename V::i32* in) {
  auto found = V::broadcast(std::int32_t{0});
  for (int i = 0; i < words; ++i) {  // 0x7f + 1 reaches the top bit of its byte, all others stay below
    const auto magnitude = V::bit_and(in[i], V::broadcast(0x7f7f7f7f));
    found = V::bit_or(found, V::add(magnitude, V::broadcast(0x01010101)));
  }
  const auto top_bits = V::bit_and(V::template shift_right<1>(found), V::broadcast(0x40404040));
  return V::mask_at_least(top_bits, 1) != 0;
}

/// Byte `byte` of each word, which is no NaN: as widen_scale has it, with the byte's place folded into the shifts.
template <class V, int byte>
typename V::f32 e4m3_value(typename V::i32 four) {
  constexpr int shift = 20 - 8 * byte;
  typename V::i32 magnitude = four;
  if constexpr (shift > 0) {
    magnitude = V::template shift_left<shift>(four);
  } else {
    magnitude = V::template shift_right<-shift>(four);
  }
  typename V::i32 sign = four;
  if constexpr (byte < 3) {
    sign = V::template shift_left<24 - 8 * byte>(four);
  }
  const auto bits = V::bit_or(V::bit_and(magnitude, V::broadcast(0x07f00000)),
                              V::bit_and(sign, V::broadcast(static_cast<std::int32_t>(0x80000000U))));
  return V::mul(V::as_f32(bits), V::broadcast(0x1p120F));
}

/// Calls sink(k within the unit, value) for every k of the unit whose words are in[0], in[1], …
template <class V, class F, class Sink>
void for_each_value(const typename V::i32* in, Sink sink) {
  if constexpr (!F::integer.exists) {
    constexpr int words = Unit<V, F>::words;
    if (!any_e4m3_nan<V, words>(in)) {
#pragma GCC unroll 8
      for (int i = 0; i < words; ++i) {
        sink(4 * i, e4m3_value<V, 0>(in[i]));
        sink(4 * i + 1, e4m3_value<V, 1>(in[i]));
        sink(4 * i + 2, e4m3_value<V, 2>(in[i]));
        sink(4 * i + 3, e4m3_value<V, 3>(in[i]));
      }
      return;
    }
  }
  for_each_code<V, F>(in, [sink](int k, typename V::i32 code) { sink(k, code_value<V, F>(code)); });
}

/// Prefetches a strip two blocks of 16 rows × a line ahead of what is being read: two lines at a time, as many calls to a block.
template <class V>
class BlocksAhead {
 public:
  BlocksAhead(const WeightStrip& strip, std::int64_t word)
      : row_stride_(strip.packed ? line : strip.row_stride),
        block_stride_(strip.packed ? lanes * line : line),
        at_(strip.codes + word * (strip.packed ? line : 4) + 2 * block_stride_) {}

  void next() {
    V::prefetch_l2(at_ + row_ * row_stride_);
    V::prefetch_l2(at_ + (row_ + 1) * row_stride_);
    row_ += 2;
    if (row_ == lanes) {
      row_ = 0;
      at_ += block_stride_;
    }
  }

 private:
  static constexpr std::int64_t line = 64;
  std::int64_t row_stride_;
  std::int64_t block_stride_;
  const std::byte* at_;
  int row_ = 0;
};

template <class V, class F>
void dequantize_strip(const WeightStrip& strip, int group_size, std::int64_t k0, std::int64_t count, float* out) {
  using i32 = typename V::i32;
  using f32 = typename V::f32;
  constexpr int max_groups = 128 / Unit<V, F>::codes;  // a unit is no longer than a group
  alignas(64) float scales[max_groups * 2 * lanes];
  pack_scales<V, F::scale_encoding>(strip, k0 / group_size, count / group_size, value_unit<F>, scales);
  const int units_per_group = group_size / Unit<V, F>::codes;
  const float* group = scales;
  int unit_of_group = 0;
  BlocksAhead<V> ahead(strip, k0 * F::bits / 32);
  const auto dequantize_unit = [&](const i32* words) {
    const f32 scale = V::load(group);
    // Formats without biases: 0 · scale would be NaN for an infinite scale whose own product is not.
    const f32 bias = F::has_biases ? V::load(group + lanes) : V::broadcast(0.0F);
    for_each_value<V, F>(words, [&](int k, f32 value) { V::store(out + k * lanes, V::fma(value, scale, bias)); });
    out += Unit<V, F>::codes * lanes;
    for (int line = 0; line < Unit<V, F>::words; line += 2) {
      ahead.next();
    }
    if (++unit_of_group == units_per_group) {
      unit_of_group = 0;
      group += 2 * lanes;
    }
  };
  const std::int64_t end = (k0 + count) * F::bits / 32;
  typename Units<V, F>::Copy copy;
  Units<V, F>(strip, k0 * F::bits / 32, end, copy).walk(end, dequantize_unit);
}

template <class V, class F>
void dequantize_rows(const std::byte* codes, std::int64_t row_stride, const float* scale_bias, std::int64_t count, float* out) {
  const auto unit = V::broadcast(value_unit<F>);
  for (std::int64_t k = 0; k < count; ++k) {
    auto u = V::template unpack_codes<F::bits>(codes + k * row_stride);
    if constexpr (F::integer.has_table) {
      u = V::bit_and(V::lookup(F::integer.table, u), V::broadcast(0xff));
    }
    const auto value = code_value<V, F>(u);
    const auto scale = V::mul(V::broadcast(scale_bias[2 * k]), unit);
    V::store(out + k * lanes, V::fma(value, scale, V::broadcast(scale_bias[2 * k + 1])));
  }
}

template <class V, int mr, int nv>
void float_gemm_tile(const FloatGemmArguments& a) {
  using f32 = typename V::f32;
  f32 sum[mr][nv];
  for (int r = 0; r < mr; ++r) {
    for (int v = 0; v < nv; ++v) {
      sum[r][v] = V::broadcast(0.0F);
    }
  }
  for (int k = 0; k < a.k; ++k) {
    f32 w[nv];
    for (int v = 0; v < nv; ++v) {
      w[v] = V::load(a.w + v * a.strip_stride + k * lanes);
    }
    for (int r = 0; r < mr; ++r) {
      const f32 x = V::broadcast(a.x[r][k]);
      for (int v = 0; v < nv; ++v) {
        sum[r][v] = V::fma(x, w[v], sum[r][v]);
      }
    }
  }
  for (int r = 0; r < mr; ++r) {
    for (int v = 0; v < nv; ++v) {
      float* c = a.c[r] + v * lanes;
      V::store(c, V::add(V::load(c), sum[r][v]));
    }
  }
}

/// n elements of x → float32.
template <class V>
void widen(const std::byte* x, Dtype dtype, std::int64_t n, float* out) {
  for (std::int64_t i = 0; i < n; i += lanes) {
    const int count = n - i < lanes ? static_cast<int>(n - i) : lanes;
    typename V::i32 value;
    switch (dtype) {
      case Dtype::float16: value = V::as_i32(V::from_f16(V::load_u16(x + 2 * i, count))); break;
      case Dtype::bfloat16: value = V::template shift_left<16>(V::load_u16(x + 2 * i, count)); break;
      default: value = V::load_words(x + 4 * i, count);
    }
    V::store_words(reinterpret_cast<std::byte*>(out + i), value, count);
  }
}

/// n floats → y, rounded to nearest even; every NaN becomes the positive quiet NaN.
template <class V>
void round(const float* c, std::int64_t n, Dtype dtype, std::byte* y) {
  using i32 = typename V::i32;
  for (std::int64_t i = 0; i < n; i += lanes) {
    const int count = n - i < lanes ? static_cast<int>(n - i) : lanes;
    const auto value = V::canonical(V::as_f32(V::load_words(reinterpret_cast<const std::byte*>(c + i), count)));
    if (dtype == Dtype::float32) {
      V::store_words(y + 4 * i, V::as_i32(value), count);
    } else if (dtype == Dtype::float16) {
      V::store_u16(y + 2 * i, V::to_f16(value), count);
    } else {
      const i32 bits = V::as_i32(value);
      const i32 odd = V::bit_and(V::template shift_right<16>(bits), V::broadcast(1));
      const i32 rounded = V::template shift_right<16>(V::add(V::add(bits, V::broadcast(0x7fff)), odd));
      V::store_u16(y + 2 * i, rounded, count);
    }
  }
}

}  // namespace
}  // namespace gqmm::cpu
