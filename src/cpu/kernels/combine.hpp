// The weighted sum of a token's slots, in float32:
//
//     out[i] = fma(w[k−1], y[k−1][i], … fma(w[1], y[1][i], fma(w[0], y[0][i], +0)))
//
// The order of the slots is part of the contract.
#pragma once

#include "assertion.hpp"
#include "cpu/kernels/kernel_table.hpp"
#include "cpu/kernels/load_float.hpp"

namespace gqmm::cpu {
namespace {

/// The weighted sum for `vectors` vectors of outputs from the i-th on. The last vector has `count` outputs.
template <class V, Dtype dtype, int vectors>
void combine_outputs(const CombineArguments& a, std::int64_t i, int count) {
  typename V::f32 sum[vectors];
  for (int v = 0; v < vectors; ++v) {
    sum[v] = V::broadcast(0.0F);
  }
  const std::byte* slot = a.slots;
  for (std::int64_t j = 0; j < a.k; ++j, slot += a.slot_stride) {
    const auto weight = V::broadcast(a.weights[j]);
    for (int v = 0; v < vectors; ++v) {
      const int loaded = v == vectors - 1 ? count : lanes;
      sum[v] = V::fma(weight, load_compute_float<V, dtype>(slot, i + v * lanes, loaded), sum[v]);
    }
  }
  for (int v = 0; v < vectors; ++v) {
    V::store_words(reinterpret_cast<std::byte*>(a.out + i + v * lanes), V::as_i32(sum[v]), v == vectors - 1 ? count : lanes);
  }
}

template <class V, Dtype dtype>
void combine_type(const CombineArguments& a) {
  constexpr int vectors = 4;  // on AVX2 these are 8 sums, as many as hide the latency of an fma
  std::int64_t i = 0;
  for (; i + vectors * lanes <= a.n; i += vectors * lanes) {
    combine_outputs<V, dtype, vectors>(a, i, lanes);
  }
  for (; i < a.n; i += lanes) {
    combine_outputs<V, dtype, 1>(a, i, a.n - i < lanes ? static_cast<int>(a.n - i) : lanes);
  }
}

template <class V>
void combine(const CombineArguments& a) {
  GQMM_ASSERT(a.n >= 0 && a.k >= 1);
  switch (a.dtype) {
    case Dtype::float16: return combine_type<V, Dtype::float16>(a);
    case Dtype::bfloat16: return combine_type<V, Dtype::bfloat16>(a);
    default: GQMM_ASSERT(a.dtype == Dtype::float32); return combine_type<V, Dtype::float32>(a);
  }
}

}  // namespace
}  // namespace gqmm::cpu
