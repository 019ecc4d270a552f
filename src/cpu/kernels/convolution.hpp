// The depthwise convolution: each channel of a row of y is a sum over taps of the same channel in rows of x.
//
//     y[r][c] = Σ_k x[r · stride + k · dilation][c] · w[c][k]          one chain of fma from zero, k ascending
//
// Lanes are channels. The taps of 16 channels lie together, with a vector for each tap:
//
//     strip 0     w[0 … 15][0] | w[0 … 15][1] | …
//     strip 1     w[16 … 31][0] | …
//
// If the stride is the dilation, as in all models, neighbouring rows of y share rows of x. With 4 taps, 4 rows that are computed
// together load 7 vectors of x instead of 16.
#pragma once

#include "assertion.hpp"
#include "cpu/kernels/each_vector.hpp"
#include "cpu/kernels/layer_table.hpp"
#include "cpu/kernels/load_float.hpp"

namespace gqmm::cpu {
namespace {

template <class V>
void store_sum(typename V::f32 sum, std::byte* row, std::int64_t c, int count) {
  V::store_words(row + 4 * c, V::as_i32(V::canonical(sum)), count);
}

/// Computes one row.
template <class V, Dtype dtype>
void convolve_row(const ConvolutionArguments& a, int row) {
  const std::byte* const* const x = a.x + row * a.x_stride;
  for_each_vector(a.channels, [&](std::int64_t c, int count) __attribute__((always_inline)) {
    const float* const w = a.weight + c / lanes * a.weight_stride;
    auto sum = V::broadcast(0.0F);
    for (std::int64_t k = 0; k < a.taps; ++k) {
      sum = V::fma(load_compute_float<V, dtype>(x[k], c, count), V::load(w + k * lanes), sum);
    }
    store_sum<V>(sum, a.y + row * a.y_stride, c, count);
  });
}

/// Computes some rows that share rows of x. 4 sums, 4 taps and an x take 9 of AVX-512's 32 registers. AVX2 would need 18 of its
/// 16, so some of its taps come from L1 each time.
template <class V, Dtype dtype, int rows, int taps>
void convolve_rows(const ConvolutionArguments& a) {
  const std::byte* x[rows + taps - 1];
  for (int j = 0; j < rows + taps - 1; ++j) {
    x[j] = a.x[j];
  }
  for_each_vector(a.channels, [&](std::int64_t c, int count) __attribute__((always_inline)) {
    const float* const w = a.weight + c / lanes * a.weight_stride;
    typename V::f32 w_f32[taps];
    for (int k = 0; k < taps; ++k) {
      w_f32[k] = V::load(w + k * lanes);
    }
    typename V::f32 sum[rows];
    for (int r = 0; r < rows; ++r) {
      sum[r] = V::broadcast(0.0F);
    }
#pragma GCC unroll 8
    for (int j = 0; j < rows + taps - 1; ++j) {
      const auto x_f32 = load_compute_float<V, dtype>(x[j], c, count);
#pragma GCC unroll 8
      for (int r = 0; r < rows; ++r) {
        if (j >= r && j - r < taps) {
          sum[r] = V::fma(x_f32, w_f32[j - r], sum[r]);
        }
      }
    }
    for (int r = 0; r < rows; ++r) {
      store_sum<V>(sum[r], a.y + r * a.y_stride, c, count);
    }
  });
}

template <class V, Dtype dtype>
void depthwise_conv_of_type(const ConvolutionArguments& a) {
  if (a.rows == most_convolved_rows && a.x_stride == 1) {
    switch (a.taps) {
      case 2: return convolve_rows<V, dtype, most_convolved_rows, 2>(a);
      case 3: return convolve_rows<V, dtype, most_convolved_rows, 3>(a);
      case 4: return convolve_rows<V, dtype, most_convolved_rows, 4>(a);
      default: break;
    }
  }
  for (int row = 0; row < a.rows; ++row) {
    convolve_row<V, dtype>(a, row);
  }
}

template <class V>
void depthwise_conv(const ConvolutionArguments& a) {
  GQMM_ASSERT(a.rows >= 1 && a.rows <= most_convolved_rows && a.channels >= 1 && a.taps >= 1);
  switch (a.dtype) {
    case Dtype::float16: return depthwise_conv_of_type<V, Dtype::float16>(a);
    case Dtype::bfloat16: return depthwise_conv_of_type<V, Dtype::bfloat16>(a);
    default: GQMM_ASSERT(a.dtype == Dtype::float32); return depthwise_conv_of_type<V, Dtype::float32>(a);
  }
}

}  // namespace
}  // namespace gqmm::cpu
