// The decode kernel (GEMV): one strip of 16 outputs times one to four rows of x. It reads the weights where they lie in memory,
// without a panel. DRAM limits its speed, so it reads every weight once and always keeps prefetches under way.
//
// The kernel transposes the weights and not the sums, so that lane = output from the start. The cost is then the same for 1, 2 or
// 3 slices, and all rows of x share it. Scales take the same transpose, 16 rows × 16 bytes at a time. The prefetches run linearly
// through the next strip.
#pragma once

#include "assertion.hpp"
#include "cpu/kernels/flush.hpp"
#include "cpu/kernels/prefetch.hpp"
#include "cpu/kernels/scales.hpp"
#include "cpu/kernels/unpack.hpp"

namespace gqmm::cpu {
namespace {

/// The registers of the kernel while it walks through the bundles of a strip.
template <class V, class F, int slices, int rows>
class StripSums {
 public:
  using i32 = typename V::i32;
  using f32 = typename V::f32;

  [[gnu::always_inline]] explicit StripSums(const GemvArguments& a)
      : bundles_per_group_(a.group_size / Bundle::codes),
        codes_prefetcher_(a.stream.near.codes, a.stream.far.codes, a.stream.strip.words, a.stream.strip.codes,
                          a.stream.prefetch_to_l2),
        scales_prefetcher_(a.stream.near.scales, a.stream.far.scales, a.K / a.group_size, a.stream.prefetch_to_l2),
        biases_prefetcher_(a.stream.near.biases, a.stream.far.biases, a.K / a.group_size, a.stream.prefetch_to_l2) {
    for (int r = 0; r < rows; ++r) {
      x_[r] = a.x[r];
      x_scales_[r] = a.x_scales[r];
      y_[r] = V::broadcast(0.0F);
    }
  }

  /// Sets the scales and biases of the next groups.
  [[gnu::always_inline]] void use_scales(const float* scale_bias) { scale_bias_ = scale_bias; }

  [[gnu::always_inline]] void multiply_bundle(const i32* words) {
    if (bundle_of_group_ == 0) {
      begin_group();
    }
    multiply_codes(words);
    for (int r = 0; r < rows; ++r) {
      x_[r] += Bundle::steps * slices;
    }
    if (++bundle_of_group_ == bundles_per_group_) {
      end_group();
    }
  }

  [[gnu::always_inline]] void store(float* c, std::int64_t c_stride) const {
    for (int r = 0; r < rows; ++r) {
      V::store(c + r * c_stride, y_[r]);
    }
  }

 private:
  using Bundle = CodeBundle<V, F>;
  // A dot product has a latency of 4 cycles, and two can begin in each cycle. So 8 independent chains of sums are needed. Where
  // rows and slices are too few for that, each sum is split into two chains.
  static constexpr int chains = rows * slices >= 4 ? 1 : 2;

  /// Each sum starts as the bits of its slice's magic number (slice.hpp). If there is a second chain, it starts at zero.
  [[gnu::always_inline]] void begin_group() {
    for (int r = 0; r < rows; ++r) {
      for (int p = 0; p < slices; ++p) {
        sum_[r][p] = V::as_i32(V::broadcast(x_scales_[r][p]));
        if constexpr (chains == 2) {
          sum_[r][slices + p] = V::broadcast(std::int32_t{0});
        }
      }
    }
  }

  [[gnu::always_inline]] void multiply_codes(const i32* words) {
    i32 source[Bundle::sources];
    Bundle::to_sources(words, source);
    unrolled<Bundle::steps>([&]<int step>() __attribute__((always_inline)) {
      // In all, the bundle prefetches as many lines as it has words.
      if constexpr ((step + 1) * Bundle::words / Bundle::steps > step * Bundle::words / Bundle::steps) {
        codes_prefetcher_.next();
      }
      const i32 w_u8 = Bundle::template step<step>(source);
      for (int r = 0; r < rows; ++r) {
        for (int p = 0; p < slices; ++p) {
          i32& chain = sum_[r][step % chains * slices + p];
          chain = V::template dot<F::integer.max_u>(chain, w_u8, V::broadcast(x_[r][step * slices + p]));
        }
      }
    });
  }

  /// Adds the group's sums to y.
  [[gnu::always_inline]] void end_group() {
    const f32 scale = V::load(scale_bias_);
    const f32 bias = F::has_biases ? V::load(scale_bias_ + lanes) : scale;
    for (int r = 0; r < rows; ++r) {
      i32 joined[slices];
      for (int p = 0; p < slices; ++p) {
        joined[p] = chains == 2 ? V::add(sum_[r][p], sum_[r][(chains - 1) * slices + p]) : sum_[r][p];
      }
      y_[r] = flush_group<V, slices, F::has_biases>(joined, x_scales_[r], scale, bias, y_[r]);
      x_scales_[r] += x_scales_of_group(slices, F::has_biases);
    }
    scales_prefetcher_.next();
    biases_prefetcher_.next();
    bundle_of_group_ = 0;
    scale_bias_ += 2 * lanes;
  }

  const std::int32_t* x_[rows];
  const float* x_scales_[rows];
  const float* scale_bias_ = nullptr;
  int bundle_of_group_ = 0;
  int bundles_per_group_;
  Prefetcher<V> codes_prefetcher_;
  SparsePrefetcher<V> scales_prefetcher_;
  SparsePrefetcher<V> biases_prefetcher_;
  i32 sum_[rows][slices * chains];
  f32 y_[rows];
};

template <class V, class F, int slices, int rows>
std::uint32_t gemv(const GemvArguments& a) {
  const WeightStrip& weights = a.stream.strip;
  const std::int64_t groups = a.K / a.group_size;
  const std::int64_t words_per_group = a.group_size * F::bits / 32;
  GQMM_ASSERT(a.group_size % CodeBundle<V, F>::codes == 0 && a.group_size <= largest_group);
  GQMM_ASSERT(groups >= 1 && a.K % a.group_size == 0);
  GQMM_ASSERT(weights.groups == groups && weights.words == groups * words_per_group);
  GQMM_ASSERT(rows == 1 || a.c_stride >= lanes);

  // The scales of `scale_groups` groups lie in memory outside of the object `sums`, whose members then stay in registers.
  constexpr std::int64_t scale_groups = gemv_scale_groups<F>;
  static_assert(scale_groups * F::group_sizes[0] * F::bits / 32 % block_words<V, F> == 0, "their words are whole blocks");
  alignas(64) float scales[scale_groups * 2 * lanes];
  std::uint32_t exceptional = 0;
  StripSums<V, F, slices, rows> sums(a);
  typename BundleWalker<V, F>::Copies copies;
  BundleWalker<V, F> bundles(weights, 0, weights.words, copies);
  // Plain C++ pipelines nothing, so there a loop costs little and saves most of the code.
  constexpr bool looped = V::pipelined_words == 0 || (rows > 1 && BundleWalker<V, F>::can_loop);
  for (std::int64_t g = 0; g < groups; g += scale_groups) {
    const std::int64_t count = std::min(scale_groups, groups - g);
    if (V::pipelined_words > 0 && has_gemv_scale_groups<F>(weights)) [[likely]] {
      const std::int64_t from = std::min(g, groups - scale_groups);  // the last time, some groups are unpacked again
      exceptional |= pack_gemv_scales<V, F>(weights, from, scales);
      sums.use_scales(scales + (g - from) * 2 * lanes);
    } else {
      exceptional |= pack_scales<V, F::scale_encoding>(weights, g, count, F::integer.unit, scales);
      sums.use_scales(scales);
    }
    bundles.template walk<looped>((g + count) * words_per_group,
                                  [&](const typename V::i32* words)
                                      __attribute__((always_inline)) { sums.multiply_bundle(words); });
  }
  sums.store(a.c, a.c_stride);
  return exceptional;
}

}  // namespace
}  // namespace gqmm::cpu
