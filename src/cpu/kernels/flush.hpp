// Ends a group: the exact integer sums become float32 and are added to y. The order of the operations is part of the numerics
// contract. GEMM and GEMV share this function, so their results have the same bits.
#pragma once

#include "cpu/kernels/kernel_table.hpp"

namespace gqmm::cpu {
namespace {

/// Returns y + bias · Σx + scale · Σ u·x, or y + scale · Σ (u − offset)·x if `biased` is false. sum[p] must have started as the
/// bits of magic number p of `x_scales` (see x_scales_of_group), and Σ u·a_p must have been added to it.
template <class V, int slices, bool biased>
typename V::f32 flush_group(const typename V::i32 (&sum)[slices], const float* x_scales, typename V::f32 scale,
                            typename V::f32 bias, typename V::f32 y) {
  const float* zero = x_scales + (biased ? 0 : slices);
  const auto part = [&](int p) { return V::sub(V::as_f32(sum[p]), V::broadcast(zero[p])); };
  typename V::f32 total = part(slices - 1);
  for (int p = slices - 2; p >= 0; --p) {
    total = V::add(part(p), total);
  }
  if constexpr (biased) {
    y = V::fma(bias, V::broadcast(x_scales[slices]), y);
  }
  return V::fma(total, scale, y);
}

}  // namespace
}  // namespace gqmm::cpu
