// The depthwise convolution keeps its contract: the error bound, and the same bits however rows, batches and threads are cut.
#include "reference/convolution.hpp"
#include "api/lower.hpp"
#include "conformance/support/convolution_operands.hpp"
#include "conformance/support/layer_arrays.hpp"

#include <gqmm/gqmm.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>

namespace gqmm::conformance {

using namespace detail;

namespace {

int sweep() { return quick() ? 60 : 400; }

TEST(DepthwiseConv1d, KeepsItsErrorBound) {
  double worst = 0;
  for (int i = 0; i < sweep(); ++i) {
    SCOPED_TRACE(i);
    Random elements(static_cast<std::uint64_t>(i));
    const ConvolutionCall call(static_cast<std::uint64_t>(610000 + i));
    const array y = call.run();
    const LoweredConvolution lowered = lower_depthwise_conv1d(call.x, call.weight, call.options);
    for (int element_number = 0; element_number < 200; ++element_number) {
      const std::int64_t b = elements.integer(0, y.dim(0) - 1);
      const std::int64_t t = elements.integer(0, y.dim(1) - 1);
      const std::int64_t c = elements.integer(0, y.dim(2) - 1);
      const ConvolutionElement reference = reference_depthwise_conv1d(lowered.problem, b, t, c);
      const double value = element(y, (b * y.dim(1) + t) * y.dim(2) + c);
      const double error = std::fabs(value - reference.value);
      ASSERT_LE(error, reference.bound) << '[' << b << ", " << t << ", " << c << "] is " << value << " for " << reference.value;
      worst = std::max(worst, error == 0 ? 0 : error / reference.bound);
    }
  }
  EXPECT_GT(worst, 0.3) << "the bound is much too wide";
}

TEST(DepthwiseConv1d, HasTheSameBitsOnAllInstructionSetsAndNumbersOfThreads) {
  for (int i = 0; i < sweep() / 4; ++i) {
    SCOPED_TRACE(i);
    ConvolutionCall call(static_cast<std::uint64_t>(620000 + i));
    const array expected = call.run();
    with_all_sets_and_threads([&](Stream stream) {
      call.options.stream = stream;
      EXPECT_TRUE(same_bits(expected, call.run()));
    });
  }
}

TEST(DepthwiseConv1d, APromptHasTheSameBitsInChunksOfAnySize) {
  for (int i = 0; i < sweep() / 2; ++i) {
    SCOPED_TRACE(i);
    ConvolutionCall prompt(static_cast<std::uint64_t>(630000 + i));
    prompt.options.stride = 1;
    prompt.options.padding_before = prompt.options.padding_after = 0;
    const array expected = prompt.run();
    const std::int64_t T = expected.dim(1);
    const std::int64_t rows_before = (prompt.weight.dim(1) - 1) * prompt.options.dilation;
    for (const std::int64_t chunk : {1, 3, 4, 65}) {
      SCOPED_TRACE(chunk);
      for (std::int64_t first = 0; first < T; first += chunk) {
        const std::int64_t count = std::min(chunk, T - first);
        ConvolutionCall some = prompt;
        some.x = part(prompt.x, 1, first, count + rows_before);
        ASSERT_TRUE(same_bits(copied(part(expected, 1, first, count)), some.run())) << first;
      }
    }
  }
}

TEST(DepthwiseConv1d, ASequenceHasTheSameBitsInAnyBatch) {
  for (int i = 0; i < sweep() / 2; ++i) {
    SCOPED_TRACE(i);
    const ConvolutionCall batch(static_cast<std::uint64_t>(640000 + i));
    const array expected = batch.run();
    for (std::int64_t b = 0; b < expected.dim(0); ++b) {
      ConvolutionCall one = batch;
      one.x = part(batch.x, 0, b, 1);
      EXPECT_TRUE(same_bits(copied(part(expected, 0, b, 1)), one.run()));
    }
  }
}

TEST(DepthwiseConv1d, PaddingIsRowsOfZeros) {
  for (int i = 0; i < sweep() / 4; ++i) {
    SCOPED_TRACE(i);
    ConvolutionCall call(static_cast<std::uint64_t>(650000 + i));
    call.options.padding_before = 5;
    call.options.padding_after = 2;
    const array expected = call.run();
    array padded = array::empty({call.x.dim(0), call.x.dim(1) + 7, call.x.dim(2)}, call.x.dtype());
    std::fill_n(padded.mutable_bytes(), padded.nbytes(), std::byte{0});
    const array rows = copied(call.x);
    const std::size_t bytes = rows.nbytes() / static_cast<std::size_t>(rows.dim(0));
    for (std::int64_t b = 0; b < rows.dim(0); ++b) {
      const auto row_bytes = static_cast<std::size_t>(rows.dim(2) * rows.itemsize());
      std::memcpy(padded.mutable_bytes() + static_cast<std::size_t>(b) * (bytes + 7 * row_bytes) + 5 * row_bytes,
                  rows.bytes() + static_cast<std::size_t>(b) * bytes, bytes);
    }
    call.x = padded;
    call.options.padding_before = call.options.padding_after = 0;
    EXPECT_TRUE(same_bits(expected, call.run()));
  }
}

TEST(DepthwiseConv1d, NotANumberStaysInItsChannelAndIsCanonical) {
  constexpr std::int64_t channels = 21;
  array x = array::empty({1, 9, channels}, Dtype::float32);
  std::fill_n(x.mutable_data<float>(), x.size(), 1.0F);
  x.mutable_data<float>()[4 * channels + 17] = -std::numeric_limits<float>::quiet_NaN();
  array weight = array::empty({channels, 3, 1}, Dtype::float32);
  std::fill_n(weight.mutable_data<float>(), weight.size(), 0.5F);
  const RestoreInstructionSet restore;
  for (const std::string& set : supported_instruction_sets()) {
    SCOPED_TRACE(set);
    set_instruction_set(set);
    const array y = depthwise_conv1d(x, weight);
    for (std::int64_t i = 0; i < y.size(); ++i) {
      const std::int64_t row = i / channels;
      std::uint32_t bits = 0;
      std::memcpy(&bits, y.data<float>() + i, sizeof bits);
      const bool is_nan = i % channels == 17 && row >= 2 && row <= 4;
      ASSERT_EQ(bits, is_nan ? 0x7fc00000U : 0x3fc00000U) << i;
    }
  }
}

}  // namespace
}  // namespace gqmm::conformance
