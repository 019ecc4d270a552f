// A caller's floating-point environment must not reach the results: a library built with -ffast-math that a program loads sets
// flush-to-zero in the thread that loads it, and in no other.
#include "conformance/support/check.hpp"
#include "conformance/support/guarded_memory.hpp"
#include "conformance/support/problems.hpp"
#include "float_settings.hpp"
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
