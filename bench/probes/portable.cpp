// Probes for an unknown processor. They are plain multiplications and additions, which the compiler optimizes.
#include "kernels.hpp"

namespace gqmm::bench {
namespace {

using s16x8 = std::int16_t __attribute__((vector_size(16)));

// Bytes are multiplied as 16-bit integers, because there is no dot-product instruction.
void int8_dot(std::int64_t rounds) {
  const std::int16_t three = opaque(std::int16_t{3});
  const s16x8 factor = {three, three, three, three, three, three, three, three};
  s16x8 sums[chains] = {};
  for (std::int64_t round = 0; round < rounds; ++round) {
    for (s16x8& sum : sums) {
      sum = sum * factor + factor;
    }
  }
  consume(sums);
}

using f32x4 = float __attribute__((vector_size(16)));

void float32_fma(std::int64_t rounds) {
  const float one = opaque(1.0F);
  const f32x4 factor = {one, one, one, one};
  f32x4 sums[chains] = {};
  for (std::int64_t round = 0; round < rounds; ++round) {
    for (f32x4& sum : sums) {
#if defined(__FP_FAST_FMAF)
      for (int lane = 0; lane < 4; ++lane) {
        sum[lane] = __builtin_fmaf(sum[lane], factor[lane], factor[lane]);
      }
#else
      sum = sum * factor + factor;
#endif
    }
  }
  consume(sums);
}

}  // namespace

const ProbeLoops portable_loops = {"int16 multiply and add, 128 bits",
                                   16.0 * chains,
                                   int8_dot,
                                   "float32 multiply and add, 128 bits",
                                   8.0 * chains,
                                   float32_fma,
                                   read_variants_of<16>};

}  // namespace gqmm::bench
