// A caller's floating-point environment must not reach the results: a library built with -ffast-math that a program loads sets
// flush-to-zero in the thread that loads it, and in no other.
#include "conformance/support/check.hpp"
#include "conformance/support/guarded_memory.hpp"
#include "conformance/support/problems.hpp"
#include "float_settings.hpp"
#include "formats/float_types.hpp"
#include "formats/registry.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <string>

namespace gqmm::conformance {

using namespace detail;

namespace {

// Problems full of subnormal activations, scales, biases, products and results.
void for_each_subnormal_problem(const std::function<void(const Spec&, Operands&)>& function) {
  const RestoreInstructionSet restore;
  std::uint64_t seed = 700000;
  for (const std::string& set : supported_instruction_sets()) {
    set_instruction_set(set);
    for (const Format& format : formats()) {
      for (const bool transpose : {true, false}) {
        for (const Dtype dtype : {Dtype::float32, Dtype::float16, Dtype::bfloat16}) {
          Spec spec;
          spec.format = &format;
          spec.group_size = format.default_group_size;
          spec.transpose = transpose;
          spec.x_dtype = spec.scale_dtype = dtype;
          spec.N = transpose ? 35 : format.default_group_size;
          spec.K = 2 * std::max(32, format.default_group_size);
          spec.pairs = {1, 12, 0, 3};
          spec.seed = seed++;
          Random random(spec.seed);
          Contents contents = random_contents(spec);
          const float tiny = dtype == Dtype::float16 ? 0x1p-24F : 0x1p-133F;
          for (float& x : contents.x) {
            x *= random.chance(0.5) ? 50 * tiny : 1.0F;
          }
          for (std::size_t i = 0; i < contents.scales.size(); ++i) {
            contents.scales[i] *= random.chance(0.5) ? 90 * tiny : 1.0F;
            contents.biases[i] *= random.chance(0.5) ? 90 * tiny : 1.0F;
          }
          for (std::uint8_t& byte : contents.scale_bytes) {
            byte = random.chance(0.5) ? static_cast<std::uint8_t>(random.integer(0, 3)) : byte;
          }
          Operands operands = lay_out_operands(spec, contents);
          SCOPED_TRACE(fmt::format("on {}: {}", set, describe(spec)));
          function(spec, operands);
          if (::testing::Test::HasFailure()) {
            return;
          }
        }
      }
    }
  }
}

// The call under a setting; the setting must be the same afterwards.
array call_under(threads::FloatControl setting, const Operands& operands) {
  const CallersSetting caller(setting);
  array y = call(operands);
  const threads::FloatControl after = threads::float_control();
  EXPECT_EQ(after & ~sticky_flags, setting & ~sticky_flags) << "the caller's setting came back changed";
  return y;
}

void expect_same_bits_under(threads::FloatControl setting) {
  for_each_subnormal_problem([&](const Spec&, Operands& operands) {
    operands.options.stream.threads = 1;
    const array expected = call_under(threads::default_float_control, operands);
    for (const int threads : {1, 2}) {
      operands.options.stream.threads = threads;
      EXPECT_TRUE(same_bits(expected, call_under(setting, operands))) << threads << " threads";
    }
  });
}

TEST(FloatEnvironment, ACallersFlushToZeroChangesNoBit) { expect_same_bits_under(flush_to_zero); }

TEST(FloatEnvironment, ACallersRoundingModeChangesNoBit) {
  expect_same_bits_under(round_down);
  expect_same_bits_under(round_towards_zero);
}

// The contract holds for subnormal results as well: were they flushed everywhere, the bits above would still agree.
TEST(FloatEnvironment, SubnormalsSurvive) {
  for_each_subnormal_problem([](const Spec& spec, const Operands& operands) {
    const Lowered lowered = lower(operands);
    const Oracle oracle(lowered.problem);
    const array y = call_under(flush_to_zero, operands);
    EXPECT_TRUE(keeps(judge(lowered.problem, oracle, y))) << describe(spec);
  });
}

/// float16 numbers of which every second one is subnormal: the odd ones or the even ones, by the seed.
array half_numbers(const Shape& shape, std::uint64_t seed) {
  Random random(seed);
  array a = array::empty(shape, Dtype::float16);
  for (std::int64_t i = 0; i < a.size(); ++i) {
    store_float(a.mutable_bytes() + 2 * i, Dtype::float16,
                static_cast<float>(random.normal() * ((i + static_cast<std::int64_t>(seed)) % 2 == 0 ? 1 : 0x1p-20)));
  }
  return a;
}

TEST(FloatEnvironment, OfACallerChangesNoBitOfOtherLayers) {
  const array q = half_numbers({1, 2, 5, 24}, 1);
  const array k = half_numbers({1, 1, 9, 24}, 2);
  const array sinks = half_numbers({2}, 3);
  const array weight = half_numbers({24}, 4);
  const auto attention = [&] { return scaled_dot_product_attention(q, k, k, 0.3F, {.mask = CausalMask(), .sinks = sinks}); };
  const array tiny = half_numbers({1, 1, 9, 32}, 5);
  const QuantizedWeights quantized = quantize(tiny, {.group_size = 32});
  const auto quantized_attention = [&] {
    return quantized_scaled_dot_product_attention(half_numbers({1, 2, 5, 32}, 6), quantized, quantized, 0.3F);
  };
  const auto norm = [&] { return rms_norm(q, weight, 0x1p-140F); };
  const auto norm_of_differences = [&] { return layer_norm(q, weight, weight, 0x1p-140F); };
  const auto weights = [&] { return softmax(q); };
  const auto rotary = [&] { return rope(q, 24, {.base = 12345.0F, .scale = 0.3F, .offset = std::int64_t{98765}}); };
  const array heads = half_numbers({1, 6, 2, 24}, 7);
  const array gates = half_numbers({1, 6, 2}, 8);
  const auto delta = [&] { return gated_delta_update(heads, heads, heads, gates, gates); };
  const auto delta_rule = [&] { return delta().y; };
  const auto state_of_delta_rule = [&] { return delta().state; };
  const array rows = half_numbers({1, 9, 24}, 9);
  const array taps = half_numbers({24, 4, 1}, 10);
  const auto convolution = [&] { return depthwise_conv1d(rows, taps); };
  const array rates = half_numbers({2}, 9);
  const auto ssm = [&] { return ssm_update(heads, rates, heads, heads, rates, gates, rates); };
  const auto state_space = [&] { return ssm().y; };
  const auto state_of_state_space = [&] { return ssm().state; };
  const RestoreInstructionSet restore;
  for (const std::string& set : supported_instruction_sets()) {
    SCOPED_TRACE(set);
    set_instruction_set(set);
    for (const std::function<array()>& layer : std::initializer_list<std::function<array()>>{
             attention, quantized_attention, norm, norm_of_differences, weights, rotary, delta_rule, state_of_delta_rule,
             state_space, state_of_state_space, convolution}) {
      const array expected = layer();
      for (const threads::FloatControl setting : {flush_to_zero, round_down, round_towards_zero}) {
        const CallersSetting caller(setting);
        EXPECT_TRUE(same_bits(expected, layer()));
      }
    }
  }
}

// Quantized weights are made by the same code paths in every environment too.
TEST(FloatEnvironment, PackingUnderFlushToZeroKeepsSubnormalScales) {
  for_each_subnormal_problem([](const Spec&, const Operands& operands) {
    const array expected = call(operands);
    const CallersSetting caller(flush_to_zero);
    const PackedWeights packed = pack(operands);
    EXPECT_TRUE(same_bits(expected, call_poisoned(operands, &packed)));
  });
}

}  // namespace
}  // namespace gqmm::conformance
