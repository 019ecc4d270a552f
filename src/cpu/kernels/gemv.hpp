// One strip of 16 outputs times one to four rows, straight from the weights as they lie in memory: the decode kernel. Its limit
// is DRAM, so it reads every weight once and keeps the memory busy.
//
// The weights are transposed (16 rows × 16 words, 64 shuffles), not the sums: lane = output from the start, the cost is the same
// for 1, 2 or 3 slices and is shared by the rows of x. Scales come through the same transpose, 16 rows × a line at a time.
// Prefetches run linearly through the next strip, one at a time between the arithmetic.
#pragma once

#include "cpu/kernels/flush.hpp"
#include "cpu/kernels/scales.hpp"
#include "cpu/kernels/unpack.hpp"

namespace gqmm::cpu {
namespace {

/// Walks the cache lines of rows that will be wanted, a few per call. Rows with gaps between them are left to the hardware.
template <class V>
class Prefetcher {
 public:
  Prefetcher(const std::byte* base, std::int64_t stride, std::int64_t row_bytes, const WeightStrip& strip) {
    if (base != nullptr && (strip.packed || stride == row_bytes)) {
      at_ = base;
      step_ = 64;
      lines_ = row_bytes * (strip.packed ? lanes : strip.rows) / 64;
    }
  }
  [[nodiscard]] std::int64_t lines() const { return lines_; }
  void advance() {
    V::prefetch(at_);
    at_ += step_;
  }

 private:
  static constexpr std::byte nothing_{};
  const std::byte* at_ = &nothing_;
  std::int64_t step_ = 0;
  std::int64_t lines_ = 0;
};

/// Groups whose scales are unpacked at a time: 32 × 128 bytes = 4 KiB of L1.
inline constexpr int scale_groups = 32;

template <class V, class F, int slices, int rows>
std::uint32_t gemv(const GemvArguments& a) {
  using U = Unit<V, F>;
  using f32 = typename V::f32;
  using i32 = typename V::i32;
  constexpr int max_u = F::integer.max_u;
  // Dot products form chains of 4 cycles, two begin per cycle: keep 8 chains where the rows and slices do not.
  constexpr int chains = rows * slices >= 4 ? 1 : 2;

  const std::int64_t groups = a.K / a.group_size;
  const std::int64_t words = a.K * F::bits / 32;
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
  Prefetcher<V> next_codes(a.next.codes, a.next.row_stride, words * 4, a.next);
  Prefetcher<V> next_scales(a.next.scales, a.next.scale_stride, groups * bytes_of(a.next.scale_type), a.next);
  Prefetcher<V> next_biases(a.next.biases, a.next.bias_stride, groups * bytes_of(a.next.bias_type), a.next);
  // Lines of scales per unit; those of codes are U::words.
  const std::int64_t units = words / U::words;
  const auto scale_lines = static_cast<int>((next_scales.lines() + units - 1) / units);
  const auto bias_lines = static_cast<int>((next_biases.lines() + units - 1) / units);
  std::uint32_t exceptional = 0;

  alignas(64) float scales[scale_groups * 2 * lanes];
  int group_of_chunk = scale_groups;
  i32 sum[rows][slices * chains];
  std::int64_t g = 0;
  int unit_of_group = 0;

  for (std::int64_t word = 0; word < words; word += block_words<V, F>) {
    const int count = words - word < block_words<V, F> ? static_cast<int>(words - word) : block_words<V, F>;
    i32 block[16];
    load_block<V>(a.weights, word, count, block);
    for (int at = 0; at < count; at += U::words) {
      if (unit_of_group == 0) {
        if (group_of_chunk == scale_groups) {
          const std::int64_t left = groups - g < scale_groups ? groups - g : scale_groups;
          exceptional |= pack_scales<V>(a.weights, g, left, F::integer.unit, F::integer.offset, scales);
          group_of_chunk = 0;
        }
        for (int r = 0; r < rows; ++r) {
          for (int p = 0; p < slices; ++p) {
            sum[r][p] = V::as_i32(V::broadcast(x_scales[r][p]));
            if constexpr (chains == 2) {
              sum[r][slices + p] = V::broadcast(std::int32_t{0});
            }
          }
        }
      }
      for (int i = 0; i < scale_lines; ++i) {
        next_scales.advance();
      }
      i32 line[U::lines];
      U::to_lines(block + at, line);
#pragma GCC unroll 8
      for (int step = 0; step < U::steps; ++step) {
        // Bursts of prefetches fill the miss buffers, then memory and arithmetic take turns: spread them.
        if ((step + 1) * U::words / U::steps > step * U::words / U::steps) {
          next_codes.advance();
        }
        const i32 w_u8 = step_codes<V, U::nibbles>(step, [&](int l) { return line[l]; });
        for (int r = 0; r < rows; ++r) {
          for (int p = 0; p < slices; ++p) {
            i32& chain = sum[r][step % chains * slices + p];
            chain = V::template dot<max_u>(chain, w_u8, V::broadcast(x[r][step * slices + p]));
          }
        }
      }
      for (int i = 0; i < bias_lines; ++i) {
        next_biases.advance();
      }
      for (int r = 0; r < rows; ++r) {
        x[r] += U::steps * slices;
      }
      if (++unit_of_group == units_per_group) {
        const f32 scale = V::load(scales + group_of_chunk * 2 * lanes);
        const f32 bias = V::load(scales + group_of_chunk * 2 * lanes + lanes);
        for (int r = 0; r < rows; ++r) {
          i32 joined[slices];
          for (int p = 0; p < slices; ++p) {
            joined[p] = chains == 2 ? V::add(sum[r][p], sum[r][(chains - 1) * slices + p]) : sum[r][p];
          }
          y[r] = flush_group<V, slices>(joined, x_scales[r], scale, bias, y[r]);
          x_scales[r] += slices + 1;
        }
        unit_of_group = 0;
        ++group_of_chunk;
        ++g;
      }
    }
  }
  for (int r = 0; r < rows; ++r) {
    V::store(a.c + r * a.c_stride, y[r]);
  }
  return exceptional;
}

}  // namespace
}  // namespace gqmm::cpu
