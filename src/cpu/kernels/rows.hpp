// Kernels over single rows: the root mean square norm, and the rotation of rotary embeddings.
#pragma once

#include "assertion.hpp"
#include "cpu/kernels/layer_table.hpp"
#include "cpu/kernels/load_float.hpp"

#include <algorithm>
#include <cmath>

namespace gqmm::cpu {
namespace {

/// The sum of 16 lanes in a fixed order: 8 apart, then 4, 2 and 1.
template <class V>
float sum_of_lanes(typename V::f32 lanes_of_sum) {
  float sum[lanes];
  V::store(sum, lanes_of_sum);
  for (int half = lanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) {
      sum[i] += sum[i + half];
    }
  }
  return sum[0];
}

template <class V, Dtype dtype>
void rms_norm_of_type(const RmsNormArguments& a) {
  const auto for_each_vector = [&](const auto& function) __attribute__((always_inline)) {
    std::int64_t i = 0;
    for (; i + lanes <= a.n; i += lanes) {
      function(i, lanes);
    }
    if (i < a.n) {
      function(i, static_cast<int>(a.n - i));
    }
  };
  auto squares = V::broadcast(0.0F);
  for_each_vector([&](std::int64_t i, int count) {
    const auto x = load_compute_float<V, dtype>(a.x, i, count);
    squares = V::fma(x, x, squares);
  });
  const auto factor = V::broadcast(1.0F / std::sqrt(sum_of_lanes<V>(squares) / static_cast<float>(a.n) + a.eps));
  for_each_vector([&](std::int64_t i, int count) {
    auto y = V::mul(load_compute_float<V, dtype>(a.x, i, count), factor);
    if (a.weight != nullptr) {
      y = V::mul(y, V::as_f32(V::load_words(reinterpret_cast<const std::byte*>(a.weight + i), count)));
    }
    V::store_words(reinterpret_cast<std::byte*>(a.y + i), V::as_i32(y), count);
  });
}

template <class V>
void rms_norm(const RmsNormArguments& a) {
  GQMM_ASSERT(a.n >= 1);
  switch (a.dtype) {
    case Dtype::float16: return rms_norm_of_type<V, Dtype::float16>(a);
    case Dtype::bfloat16: return rms_norm_of_type<V, Dtype::bfloat16>(a);
    default: GQMM_ASSERT(a.dtype == Dtype::float32); return rms_norm_of_type<V, Dtype::float32>(a);
  }
}

template <class V>
void rotate(const RotateArguments& r) {
  const auto minus_one = V::broadcast(-1.0F);
  for (std::int64_t i = 0; i < r.n; i += lanes) {
    const int count = r.n - i < lanes ? static_cast<int>(r.n - i) : lanes;
    const auto load = [&](const float* from) {
      return V::as_f32(V::load_words(reinterpret_cast<const std::byte*>(from + i), count));
    };
    const auto store = [&](float* to, typename V::f32 value) {
      V::store_words(reinterpret_cast<std::byte*>(to + i), V::as_i32(value), count);
    };
    const auto a = load(r.a);
    const auto b = load(r.b);
    const auto cos = load(r.cos);
    const auto sin = load(r.sin);
    store(r.a, V::fma(a, cos, V::mul(minus_one, V::mul(b, sin))));
    store(r.b, V::fma(b, cos, V::mul(a, sin)));
  }
}

}  // namespace
}  // namespace gqmm::cpu
