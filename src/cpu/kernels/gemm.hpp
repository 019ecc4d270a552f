// The register tile (micro-kernel) of the integer GEMM: mr rows × nv strips of 16 outputs, over a range of groups.
//
//     c[r][n] += Σ_g  scale[g][n] · 2^… · Σ_{k∈g} u[n][k] · X[r][k]  +  bias[g][n] · Σ_{k∈g} x[r][k]
//     (for signed bytes: u − offset in place of u, and no bias)
//
//     panel of a strip:   group 0                    group 1
//                         line 0   line 1   …        …           a line is 64 bytes: 16 outputs × 4 bytes of codes
//     x of a row:         step 0          step 1     …
//                         slice 0 1 2     0 1 2                  a word is 4 bytes of x, broadcast to all lanes
//
// Every broadcast word is used by nv dot products, and every weight vector by mr · slices of them. The caller owns the edges:
// for the last rows and strips it calls the smaller tiles of the table.
#pragma once

#include "assertion.hpp"
#include "cpu/kernels/flush.hpp"
#include "cpu/kernels/unpack.hpp"

namespace gqmm::cpu {
namespace {

/// The registers of a tile while it walks along k. `bundle_k` is the number of k in a bundle, the unrolled part of the loop: 32,
/// or 16 for groups of 16.
template <class V, PanelKind kind, int slices, int mr, int nv, int bundle_k>
class GemmTile {
 public:
  [[gnu::always_inline]] explicit GemmTile(const GemmArguments& a)
      // At most two lines are prefetched per bundle. A burst would fill the miss buffers and stall the arithmetic behind it.
      : prefetch_(a.prefetch), prefetch_step_(a.prefetch_lines * 64), second_line_(a.prefetch_lines > 1 ? 64 : 0) {
    for (int v = 0; v < nv; ++v) {
      codes_[v] = a.codes + v * a.strip_codes;
      scales_[v] = a.scales + v * a.strip_scales;
    }
    for (int r = 0; r < mr; ++r) {
      x_[r] = a.x[r];
      x_scales_[r] = a.x_scales[r];
      for (int v = 0; v < nv; ++v) {
        y_[r][v] = a.first ? V::broadcast(0.0F) : V::load(a.c + r * a.c_stride + v * lanes);
      }
    }
  }

  /// Each sum starts as the bits of its magic number.
  [[gnu::always_inline]] void begin_group() {
    for (int r = 0; r < mr; ++r) {
      for (int p = 0; p < slices; ++p) {
        const i32 magic = V::as_i32(V::broadcast(x_scales_[r][p]));
        for (int v = 0; v < nv; ++v) {
          sum_[r][v][p] = magic;
        }
      }
    }
  }

  [[gnu::always_inline]] void multiply_bundle() {
#pragma GCC unroll 8
    for (int step = 0; step < steps; ++step) {
      i32 w_u8[nv];
      for (int v = 0; v < nv; ++v) {
        w_u8[v] = step_codes<V, nibbles>(step, [&](int line) { return V::load_words(codes_[v] + line * 64, 16); });
      }
      for (int r = 0; r < mr; ++r) {
        for (int p = 0; p < slices; ++p) {
          const i32 x_s8 = V::broadcast(x_[r][step * slices + p]);
          for (int v = 0; v < nv; ++v) {
            sum_[r][v][p] = V::template dot<max_u>(sum_[r][v][p], w_u8[v], x_s8);
          }
        }
      }
    }
  }

  [[gnu::always_inline]] void next_bundle() {
    V::prefetch_l2(prefetch_);
    V::prefetch_l2(prefetch_ + second_line_);
    prefetch_ += prefetch_step_;
    for (int v = 0; v < nv; ++v) {
      codes_[v] += bundle_bytes;
    }
    for (int r = 0; r < mr; ++r) {
      x_[r] += steps * slices;
    }
  }

  /// Adds the group's sums to y.
  [[gnu::always_inline]] void end_group() {
    // This line makes the compiler read the magic numbers from memory again. Otherwise it keeps them in registers through the
    // group, although the registers are full, and 12 of the sums spill.
    asm volatile("" ::: "memory");
    for (int v = 0; v < nv; ++v) {
      const f32 scale = V::load(scales_[v]);
      const f32 bias = biased ? V::load(scales_[v] + lanes) : scale;
      for (int r = 0; r < mr; ++r) {
        y_[r][v] = flush_group<V, slices, biased>(sum_[r][v], x_scales_[r], scale, bias, y_[r][v]);
      }
      scales_[v] += 2 * lanes;
    }
    for (int r = 0; r < mr; ++r) {
      x_scales_[r] += x_scales_of_group(slices, biased);
    }
  }

  [[gnu::always_inline]] void store(float* c, std::int64_t c_stride) const {
    for (int r = 0; r < mr; ++r) {
      for (int v = 0; v < nv; ++v) {
        V::store(c + r * c_stride + v * lanes, y_[r][v]);
      }
    }
  }

 private:
  using f32 = typename V::f32;
  using i32 = typename V::i32;
  static constexpr bool nibbles = kind == PanelKind::nibbles;
  static constexpr bool biased = kind != PanelKind::signed_bytes;
  static constexpr int max_u = nibbles ? 15 : kind == PanelKind::wide_bytes ? 255 : 127;
  static constexpr int steps = bundle_k / 4;
  static constexpr int bundle_bytes = nibbles ? bundle_k * 8 : bundle_k * 16;

  const std::byte* codes_[nv];
  const float* scales_[nv];
  const std::int32_t* x_[mr];
  const float* x_scales_[mr];
  const std::byte* prefetch_;
  std::int64_t prefetch_step_;
  std::int64_t second_line_;
  i32 sum_[mr][nv][slices];
  f32 y_[mr][nv];
};

template <class V, PanelKind kind, int slices, int mr, int nv, int bundle_k>
void gemm_tile(const GemmArguments& a) {
  GQMM_ASSERT(a.groups >= 1 && a.group_size % bundle_k == 0 && a.group_size <= largest_group);
  GQMM_ASSERT(a.prefetch_lines >= 0 && a.prefetch_lines <= 2);
  GQMM_ASSERT(mr == 1 || a.c_stride >= nv * lanes);
  GemmTile<V, kind, slices, mr, nv, bundle_k> tile(a);
  const int bundles = a.group_size / bundle_k;
  for (int g = 0; g < a.groups; ++g) {
    tile.begin_group();
    for (int u = 0; u < bundles; ++u) {
      tile.multiply_bundle();
      tile.next_bundle();
    }
    tile.end_group();
  }
  tile.store(a.c, a.c_stride);
}

}  // namespace
}  // namespace gqmm::cpu
