// The sums of a register tile of float32 products:
//
//     sum[r][v] = Σ_k x[r][k] · w[v][k]        by fma from zero, k ascending
//
// It is the inner loop of the float GEMM and of attention.
#pragma once

#include "assertion.hpp"
#include "cpu/kernels/kernel_table.hpp"
#include "cpu/kernels/unrolled.hpp"

namespace gqmm::cpu {
namespace {

/// Computes the sums of mr rows × nv strips. `sum` need not be set before.
template <class V, int mr, int nv>
[[gnu::always_inline]] inline void float_tile_sums(const FloatTileOperands& a, typename V::f32 (&sum)[mr][nv]) {
  GQMM_ASSERT(a.k >= 0 && a.prefetch_lines >= 0 && a.prefetch_lines <= 2);
  for (int r = 0; r < mr; ++r) {
    for (int v = 0; v < nv; ++v) {
      sum[r][v] = V::broadcast(0.0F);
    }
  }
  const auto multiply = [&](int k) __attribute__((always_inline)) {
    typename V::f32 w[nv];
    for (int v = 0; v < nv; ++v) {
      w[v] = V::load(a.w + v * a.strip_stride + k * lanes);
    }
    for (int r = 0; r < mr; ++r) {
      const auto x = V::broadcast(a.x[r][k]);
      for (int v = 0; v < nv; ++v) {
        sum[r][v] = V::fma(x, w[v], sum[r][v]);
      }
    }
  };
  const std::byte* prefetch = a.prefetch;
  const std::int64_t second_line = a.prefetch_lines > 1 ? line_bytes : 0;
  int k = 0;
  for (; k + prefetch_k <= a.k; k += prefetch_k) {
    V::prefetch_l2(prefetch);
    V::prefetch_l2(prefetch + second_line);
    prefetch += a.prefetch_lines * line_bytes;
    unrolled<prefetch_k>([&]<int i>() __attribute__((always_inline)) { multiply(k + i); });
  }
  for (; k < a.k; ++k) {
    multiply(k);
  }
}

}  // namespace
}  // namespace gqmm::cpu
