// Kernels over single rows: norms, softmax, and the rotation of rotary embeddings.
#pragma once

#include "assertion.hpp"
#include "cpu/kernels/each_vector.hpp"
#include "cpu/kernels/elementary_functions.hpp"
#include "cpu/kernels/layer_table.hpp"
#include "cpu/kernels/load_float.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

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
  auto squares = V::broadcast(0.0F);
  for_each_vector(a.n, [&](std::int64_t i, int count) {
    const auto x = load_compute_float<V, dtype>(a.x, i, count);
    squares = V::fma(x, x, squares);
  });
  const auto factor = V::broadcast(1.0F / std::sqrt(sum_of_lanes<V>(squares) / static_cast<float>(a.n) + a.eps));
  for_each_vector(a.n, [&](std::int64_t i, int count) {
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

/// Sets the elements behind a row, up to whole vectors. Returns the end of these.
inline std::int64_t pad_row(float* row, std::int64_t n, float value) {
  const std::int64_t end = (n + lanes - 1) / lanes * lanes;
  for (std::int64_t i = n; i < end; ++i) {
    row[i] = value;
  }
  return end;
}

/// mean = Σ y / n        d = y − mean        y = d / √(Σ d² / n + eps) · weight + bias
template <class V>
void layer_norm(const LayerNormArguments& a) {
  GQMM_ASSERT(a.n >= 1);
  const std::int64_t end = pad_row(a.y, a.n, 0.0F);
  auto sum = V::broadcast(0.0F);
  for (std::int64_t i = 0; i < end; i += lanes) {
    sum = V::add(sum, V::load(a.y + i));
  }
  const float mean = sum_of_lanes<V>(sum) / static_cast<float>(a.n);
  pad_row(a.y, a.n, mean);  // their differences from the mean are 0
  auto squares = V::broadcast(0.0F);
  for (std::int64_t i = 0; i < end; i += lanes) {
    const auto difference = V::sub(V::load(a.y + i), V::broadcast(mean));
    V::store(a.y + i, difference);
    squares = V::fma(difference, difference, squares);
  }
  const auto factor = V::broadcast(1.0F / std::sqrt(sum_of_lanes<V>(squares) / static_cast<float>(a.n) + a.eps));
  for (std::int64_t i = 0; i < end; i += lanes) {
    const int count = a.n - i < lanes ? static_cast<int>(a.n - i) : lanes;
    const auto load = [&](const float* from) {
      return V::as_f32(V::load_words(reinterpret_cast<const std::byte*>(from + i), count));
    };
    auto y = V::mul(V::load(a.y + i), factor);
    if (a.weight != nullptr) {
      y = a.bias != nullptr ? V::fma(y, load(a.weight), load(a.bias)) : V::mul(y, load(a.weight));
    } else if (a.bias != nullptr) {
      y = V::add(y, load(a.bias));
    }
    V::store(a.y + i, y);
  }
}

/// p = e^(y − max y)        y = p / Σ p
template <class V>
void softmax_of_row(const RowSoftmaxArguments& a) {
  GQMM_ASSERT(a.n >= 1);
  constexpr float hidden = -std::numeric_limits<float>::infinity();  // its p is 0
  const std::int64_t end = pad_row(a.y, a.n, hidden);
  auto largest = V::load(a.y);
  for (std::int64_t i = lanes; i < end; i += lanes) {
    largest = V::max(V::load(a.y + i), largest);
  }
  const auto maximum = V::broadcast(V::reduce_max(largest));
  auto sum = V::broadcast(0.0F);
  for (std::int64_t i = 0; i < end; i += lanes) {
    const auto p = exp_nonpositive<V>(V::sub(V::load(a.y + i), maximum));
    V::store(a.y + i, p);
    sum = V::add(sum, p);
  }
  const auto factor = V::broadcast(1.0F / sum_of_lanes<V>(sum));
  for (std::int64_t i = 0; i < end; i += lanes) {
    V::store(a.y + i, V::mul(V::load(a.y + i), factor));
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
