// A register tile of the integer GEMM: mr rows × nv strips of 16 outputs, over a range of groups.
//
//     c[r][n] += Σ_g  scale[g][n] · 2^… · Σ_{k∈g} u[n][k] · X[r][k]  +  bias[g][n] · Σ_{k∈g} x[r][k]
//     (signed bytes: u − offset in place of u, and no bias)
//
//     panel of a strip:   group 0                    group 1
//                         line 0   line 1   …        …           a line is 64 bytes: 16 outputs × 4 bytes of codes
//     x of a row:         step 0          step 1     …
//                         slice 0 1 2     0 1 2                  a word is 4 bytes of x, broadcast to all lanes
//
// Every broadcast word feeds nv dot products and every weight vector mr · slices of them. The caller owns edges: it calls the
// smaller tiles of the table for what is left of rows and strips.
#pragma once

#include "cpu/kernels/flush.hpp"
#include "cpu/kernels/unpack.hpp"

namespace gqmm::cpu {
namespace {

/// unit: codes per unrolled block, 32 or (for groups of 16) 16.
template <class V, PanelKind kind, int slices, int mr, int nv, int unit>
void gemm_tile(const GemmArguments& a) {
  using f32 = typename V::f32;
  using i32 = typename V::i32;
  constexpr bool nibbles = kind == PanelKind::nibbles;
  constexpr bool biased = kind != PanelKind::signed_bytes;
  constexpr int max_u = nibbles ? 15 : kind == PanelKind::wide_bytes ? 255 : 127;
  constexpr int steps = unit / 4;
  constexpr int unit_bytes = nibbles ? unit * 8 : unit * 16;  // of a unit

  const std::byte* codes[nv];
  const float* scales[nv];
  for (int v = 0; v < nv; ++v) {
    codes[v] = a.codes + v * a.strip_codes;
    scales[v] = a.scales + v * a.strip_scales;
  }
  const std::int32_t* x[mr];
  const float* x_scales[mr];
  for (int r = 0; r < mr; ++r) {
    x[r] = a.x[r];
    x_scales[r] = a.x_scales[r];
  }
  f32 y[mr][nv];
  for (int r = 0; r < mr; ++r) {
    for (int v = 0; v < nv; ++v) {
      y[r][v] = a.first ? V::broadcast(0.0F) : V::load(a.c + r * a.c_stride + v * lanes);
    }
  }
  const int units = a.group_size / unit;
  // At most two lines per unit: bursts fill the miss buffers and stall the arithmetic behind them.
  const std::byte* prefetch = a.prefetch;
  const std::int64_t prefetch_step = a.prefetch_lines * 64;
  const std::int64_t second_line = a.prefetch_lines > 1 ? 64 : 0;

  for (int g = 0; g < a.groups; ++g) {
    i32 sum[mr][nv][slices];
    for (int r = 0; r < mr; ++r) {
      for (int p = 0; p < slices; ++p) {
        const i32 magic = V::as_i32(V::broadcast(x_scales[r][p]));
        for (int v = 0; v < nv; ++v) {
          sum[r][v][p] = magic;
        }
      }
    }
    for (int u = 0; u < units; ++u) {
#pragma GCC unroll 8
      for (int step = 0; step < steps; ++step) {
        i32 w_u8[nv];
        for (int v = 0; v < nv; ++v) {
          w_u8[v] = step_codes<V, nibbles>(step, [&](int line) { return V::load_words(codes[v] + line * 64, 16); });
        }
        for (int r = 0; r < mr; ++r) {
          for (int p = 0; p < slices; ++p) {
            const i32 x_s8 = V::broadcast(x[r][step * slices + p]);
            for (int v = 0; v < nv; ++v) {
              sum[r][v][p] = V::template dot<max_u>(sum[r][v][p], w_u8[v], x_s8);
            }
          }
        }
      }
      V::prefetch_l2(prefetch);
      V::prefetch_l2(prefetch + second_line);
      prefetch += prefetch_step;
      for (int v = 0; v < nv; ++v) {
        codes[v] += unit_bytes;
      }
      for (int r = 0; r < mr; ++r) {
        x[r] += steps * slices;
      }
    }
    // Magic numbers are read again rather than kept in registers through the group: they are operands in memory, the registers
    // are full. Without this line 12 of the sums spill.
    asm volatile("" ::: "memory");
    for (int v = 0; v < nv; ++v) {
      const f32 scale = V::load(scales[v]);
      const f32 bias = biased ? V::load(scales[v] + lanes) : scale;
      for (int r = 0; r < mr; ++r) {
        y[r][v] = flush_group<V, slices, biased>(sum[r][v], x_scales[r], scale, bias, y[r][v]);
      }
      scales[v] += 2 * lanes;
    }
    for (int r = 0; r < mr; ++r) {
      x_scales[r] += x_scales_of_group(slices, biased);
    }
  }
  for (int r = 0; r < mr; ++r) {
    for (int v = 0; v < nv; ++v) {
      V::store(a.c + r * a.c_stride + v * lanes, y[r][v]);
    }
  }
}

}  // namespace
}  // namespace gqmm::cpu
