// Operands of the depthwise convolution for its tests.
#pragma once

#include "conformance/support/attention_operands.hpp"
#include "conformance/support/random.hpp"

#include <gqmm/gqmm.hpp>

#include <cstdint>

namespace gqmm::conformance {

/// A call with operands of any shape, type and layout. Most are as models have them: few taps, and neither stride, dilation nor
/// padding.
struct ConvolutionCall {
  array x;
  array weight;
  DepthwiseConv1dOptions options = {};

  explicit ConvolutionCall(std::uint64_t seed) {
    Random random(seed);
    constexpr std::int64_t widths[] = {1, 7, 16, 33, 64, 200, 512, 1100};
    const std::int64_t channels = random.one_of(widths);
    const std::int64_t taps = random.chance(0.7) ? random.integer(2, 4) : random.integer(1, 9);
    const std::int64_t batch = random.integer(1, 3);
    if (random.chance(0.4)) {
      options.stride = random.integer(1, 4);
      options.dilation = random.integer(1, 3);
      options.padding_before = random.integer(0, 9);
      options.padding_after = random.integer(0, 9);
    }
    const std::int64_t rows = (taps - 1) * options.dilation + (random.chance(0.3) ? 1 : random.integer(1, 150));
    const Dtype type = random.one_of(compute_types);
    const Dtype type_of_weight = random.chance(0.8) ? type : random.one_of(compute_types);
    x = in_any_layout(normal({batch, rows, channels}, type, random), random);
    weight = in_any_layout(normal({channels, taps, 1}, type_of_weight, random), random);
  }

  [[nodiscard]] array run() const { return depthwise_conv1d(x, weight, options); }
};

}  // namespace gqmm::conformance
