// One strip of 16 outputs times one to four rows, straight from the weights as they lie in memory: the decode kernel. Its limit
// is DRAM, so it reads every weight once and keeps the memory busy.
//
// The weights are transposed, not the sums: lane = output from the start, the cost is the same for 1, 2 or 3 slices and is shared
// by the rows of x. Scales come through the same transpose, 16 rows × 16 bytes at a time. Prefetches run linearly through the
// next strip.
#pragma once

#include "cpu/kernels/flush.hpp"
#include "cpu/kernels/prefetch.hpp"
#include "cpu/kernels/scales.hpp"
#include "cpu/kernels/unpack.hpp"

namespace gqmm::cpu {
namespace {

template <class V, class F, int slices, int rows>
std::uint32_t gemv(const GemvArguments& a) {
  using U = Unit<V, F>;
  using f32 = typename V::f32;
  using i32 = typename V::i32;
  constexpr int max_u = F::integer.max_u;
  // Dot products form chains of 4 cycles, two begin per cycle: keep 8 chains where the rows and slices do not.
  constexpr int chains = rows * slices >= 4 ? 1 : 2;

  const auto& [weights, next, after_next, prefetch_to_l2] = a.stream;
  const std::int64_t groups = a.K / a.group_size;
  const std::int64_t words_per_group = a.group_size * F::bits / 32;
  const int units_per_group = a.group_size / U::codes;
  f32 y[rows];
  for (int r = 0; r < rows; ++r) {
    y[r] = V::broadcast(0.0F);
  }
  const std::int32_t* x[rows];
  const float* x_scales[rows];
  for (int r = 0; r < rows; ++r) {
    x[r] = a.x[r];
    x_scales[r] = a.x_scales[r];
  }
  Prefetcher<V> codes_ahead(next.codes, after_next.codes, weights.words, weights.codes, prefetch_to_l2);
  SparsePrefetcher<V> scales_ahead(next.scales, after_next.scales, groups, prefetch_to_l2);
  SparsePrefetcher<V> biases_ahead(next.biases, after_next.biases, groups, prefetch_to_l2);
  std::uint32_t exceptional = 0;

  constexpr std::int64_t few = few_groups<F>;
  static_assert(few * F::group_sizes[0] * F::bits / 32 % block_words<V, F> == 0, "their words are whole blocks");
  alignas(64) float scales[few * 2 * lanes];
  const float* scale_bias = scales;
  i32 sum[rows][slices * chains];
  int unit_of_group = 0;

  const auto multiply_unit = [&](const i32* words_of_unit) __attribute__((always_inline)) {
    if (unit_of_group == 0) {
      for (int r = 0; r < rows; ++r) {
        for (int p = 0; p < slices; ++p) {
          sum[r][p] = V::as_i32(V::broadcast(x_scales[r][p]));
          if constexpr (chains == 2) {
            sum[r][slices + p] = V::broadcast(std::int32_t{0});
          }
        }
      }
    }
    i32 source[U::sources];
    U::to_sources(words_of_unit, source);
    unrolled<U::steps>([&]<int step>() __attribute__((always_inline)) {
      if constexpr ((step + 1) * U::words / U::steps > step * U::words / U::steps) {  // as many lines as the unit is made of
        codes_ahead.next();
      }
      const i32 w_u8 = U::template step<step>(source);
      for (int r = 0; r < rows; ++r) {
        for (int p = 0; p < slices; ++p) {
          i32& chain = sum[r][step % chains * slices + p];
          chain = V::template dot<max_u>(chain, w_u8, V::broadcast(x[r][step * slices + p]));
        }
      }
    });
    for (int r = 0; r < rows; ++r) {
      x[r] += U::steps * slices;
    }
    if (++unit_of_group == units_per_group) {
      const f32 scale = V::load(scale_bias);
      const f32 bias = F::has_biases ? V::load(scale_bias + lanes) : scale;
      for (int r = 0; r < rows; ++r) {
        i32 joined[slices];
        for (int p = 0; p < slices; ++p) {
          joined[p] = chains == 2 ? V::add(sum[r][p], sum[r][(chains - 1) * slices + p]) : sum[r][p];
        }
        y[r] = flush_group<V, slices, F::has_biases>(joined, x_scales[r], scale, bias, y[r]);
        x_scales[r] += x_scales_of_group(slices, F::has_biases);
      }
      scales_ahead.next();
      biases_ahead.next();
      unit_of_group = 0;
      scale_bias += 2 * lanes;
    }
  };

  typename Units<V, F>::Copies copies;
  Units<V, F> units(weights, 0, weights.words, copies);
  for (std::int64_t g = 0; g < groups; g += few) {
    const std::int64_t count = std::min(few, groups - g);
    if (V::words_ahead > 0 && has_few_groups<F>(weights)) [[likely]] {
      const std::int64_t from = std::min(g, groups - few);  // the last time, some of them again
      exceptional |= pack_few_scales<V, F>(weights, from, scales);
      scale_bias = scales + (g - from) * 2 * lanes;
    } else {
      exceptional |= pack_scales<V, F::scale_encoding>(weights, g, count, F::integer.unit, scales);
      scale_bias = scales;
    }
    units.walk((g + count) * words_per_group, multiply_unit);
  }
  for (int r = 0; r < rows; ++r) {
    V::store(a.c + r * a.c_stride, y[r]);
  }
  return exceptional;
}

}  // namespace
}  // namespace gqmm::cpu
