// The float path: a strip is dequantized to float32, one block of k at a time, and then multiplied by fma.
//
//     c[r][n] += Σ_{k in block} x[r][k] · ŵ[k][n]
//
// The sum of a block starts at zero and runs in ascending k. Then it is added to c.
//
// The float path serves formats that have no integer form, weights with rows along n, and dense weights. For all other weights it
// serves the exceptional groups and outputs.
#pragma once

#include "assertion.hpp"
#include "cpu/kernels/float_strip.hpp"
#include "cpu/kernels/float_tile.hpp"
#include "cpu/kernels/scales.hpp"
#include "cpu/kernels/slice.hpp"
#include "cpu/kernels/unpack.hpp"

namespace gqmm::cpu {
namespace {

/// Returns value(code) / unit as float32 for the code in each lane, where `unit` is the format's unit.
template <class V, class F>
typename V::f32 code_value(typename V::i32 code) {
  if constexpr (F::integer.exists) {
    return V::sub(V::to_f32(code), V::broadcast(static_cast<float>(F::integer.offset)));
  } else {
    return from_small_float<V, *F::float_code>(code);
  }
}

/// Calls sink(k, u) for every k of the bundle whose words are in[0], in[1], …; k counts within the bundle, and u is an i32 of the
/// codes as bytes.
template <class V, class F, class Sink>
void for_each_code(const typename V::i32* in, Sink sink) {
  using Bundle = CodeBundle<V, F>;
  using i32 = typename V::i32;
  i32 source[Bundle::sources];
  Bundle::to_sources(in, source);
  const i32 mask = V::broadcast(0xff);
  unrolled<Bundle::steps>([&]<int step>() {
    const i32 four = Bundle::template step<step>(source);
    const i32 code[4] = {V::bit_and(four, mask), V::bit_and(V::template shift_right<8>(four), mask),
                         V::bit_and(V::template shift_right<16>(four), mask), V::template shift_right<24>(four)};
    for (int byte = 0; byte < 4; ++byte) {
      sink(Bundle::even_odd ? step / 2 * 8 + byte * 2 + step % 2 : step * 4 + byte, code[byte]);
    }
  });
}

template <class V, class F>
void dequantize_integers(const WeightStrip& strip, int group_size, std::int64_t k0, std::int64_t count, float* out) {
  GQMM_ASSERT(group_size % CodeBundle<V, F>::codes == 0 && k0 >= 0 && k0 % group_size == 0);
  GQMM_ASSERT(count >= group_size && count % group_size == 0 && count <= float_block);
  using i32 = typename V::i32;
  using f32 = typename V::f32;
  constexpr std::int64_t max_groups = float_block / CodeBundle<V, F>::codes;  // a bundle is no longer than a group
  alignas(64) float scales[max_groups * 2 * lanes];
  pack_scales<V, F::scale_encoding>(strip, k0 / group_size, count / group_size, F::integer.unit, scales);
  const int bundles_per_group = group_size / CodeBundle<V, F>::codes;
  const float* group = scales;
  int bundle_of_group = 0;
  const auto dequantize_bundle = [&](const i32* words) {
    const f32 scale = V::load(group);
    // Formats without biases get a bias of 0. It must not be computed as 0 · scale, which is NaN for an infinite scale.
    const f32 bias = F::has_biases ? V::load(group + lanes) : V::broadcast(0.0F);
    for_each_code<V, F>(words, [&](int k, i32 code) { V::store(out + k * lanes, V::fma(code_value<V, F>(code), scale, bias)); });
    out += CodeBundle<V, F>::codes * lanes;
    if (++bundle_of_group == bundles_per_group) {
      bundle_of_group = 0;
      group += 2 * lanes;
    }
  };
  const std::int64_t end = (k0 + count) * F::bits / 32;
  typename BundleWalker<V, F>::Copies copies;
  BundleWalker<V, F>(strip, k0 * F::bits / 32, end, copies).walk(end, dequantize_bundle);
}

template <class V, class F>
void dequantize_floats(const WeightStrip& strip, int group_size, std::int64_t k0, std::int64_t count, float* out) {
  GQMM_ASSERT(group_size == F::group_sizes[0] && k0 >= 0 && k0 % group_size == 0);
  GQMM_ASSERT(count >= group_size && count % group_size == 0 && count <= float_block);
  with_float_strip<V, F>({.strip = strip, .near = {}, .far = {}}, k0 / 4, (k0 + count) / 4, [&](auto& source) {
    source.begin_block(k0);
    float* to = out;
    for (std::int64_t k = 0; k < count; k += source.codes) {
      source.next([&]<int i>(typename V::f32 w) __attribute__((always_inline)) { V::store(to + i * lanes, w); });
      to += source.codes * lanes;
    }
  });
}

/// Dequantizes the 16 outputs of one k of weights with rows along n.
template <class V, class F>
typename V::f32 dequantize_one_k(const CodesAlongN& row) {
  auto u = V::template unpack_codes<F::bits>(row.codes);
  if constexpr (F::integer.has_table) {
    u = V::bit_and(V::lookup(F::integer.table, u), V::broadcast(0xff));
  }
  const auto value = code_value<V, F>(u);
  const auto scale = V::broadcast(*row.scales);
  if constexpr (F::has_biases) {
    return V::fma(value, scale, V::broadcast(row.scales[row.to_bias]));
  } else {
    return V::mul(value, scale);
  }
}

template <class V, class F>
void dequantize_along_n(CodesAlongN rows, std::int64_t count, float* out) {
  for (std::int64_t k = 0; k < count; ++k, rows.next()) {
    V::store(out + k * lanes, dequantize_one_k<V, F>(rows));
  }
}

template <class V, int mr, int nv>
void float_gemm_tile(const FloatGemmArguments& a) {
  GQMM_ASSERT(a.tile.k >= 1 && a.tile.k <= float_block);
  typename V::f32 sum[mr][nv];
  float_tile_sums<V, mr, nv>(a.tile, sum);
  for (int r = 0; r < mr; ++r) {
    for (int v = 0; v < nv; ++v) {
      float* c = a.c[r] + v * lanes;
      V::store(c, V::add(V::load(c), sum[r][v]));
    }
  }
}

/// Converts n elements of x, or n scales, to float32.
template <class V>
void widen(const std::byte* x, ScaleType type, std::int64_t n, float* out) {
  for (std::int64_t i = 0; i < n; i += lanes) {
    const int count = n - i < lanes ? static_cast<int>(n - i) : lanes;
    auto value = V::broadcast(0.0F);
    switch (type) {
      case ScaleType::float32: value = V::as_f32(V::load_words(x + 4 * i, count)); break;
      case ScaleType::float16: value = widen_scale<V, ScaleType::float16>(V::load_u16(x + 2 * i, count)); break;
      case ScaleType::bfloat16: value = widen_scale<V, ScaleType::bfloat16>(V::load_u16(x + 2 * i, count)); break;
      case ScaleType::e8m0: value = widen_scale<V, ScaleType::e8m0>(V::load_u8(x + i, count)); break;
      case ScaleType::e4m3: value = widen_scale<V, ScaleType::e4m3>(V::load_u8(x + i, count)); break;
    }
    V::store_words(reinterpret_cast<std::byte*>(out + i), V::as_i32(value), count);
  }
}

/// Rounds n floats to nearest even and writes them to y. Every NaN becomes the positive quiet NaN.
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
      GQMM_ASSERT(dtype == Dtype::bfloat16);
      const i32 bits = V::as_i32(value);
      const i32 odd = V::bit_and(V::template shift_right<16>(bits), V::broadcast(1));
      const i32 rounded = V::template shift_right<16>(V::add(V::add(bits, V::broadcast(0x7fff)), odd));
      V::store_u16(y + 2 * i, rounded, count);
    }
  }
}

}  // namespace
}  // namespace gqmm::cpu
