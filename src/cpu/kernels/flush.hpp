// The end of a group: exact integer sums become float32 and join y. Its order of operations is the numerics contract; GEMM and
// GEMV share it, so their results are the same bits.
#pragma once

#include "cpu/kernels/kernel_table.hpp"

namespace gqmm::cpu {
namespace {

/// y + bias · Σx + scale · Σ u·x, or, not biased, y + scale · Σ (u − offset)·x, where sum[p] started as the bits of magic p of
/// `x_scales` (x_scales_of_group) and has since counted Σ u·a_p.
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
