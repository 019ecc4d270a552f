// NaN, Inf, subnormal, huge and zero operands flow as in a float evaluation, and nowhere but into their own rows and columns.
#include "conformance/support/check.hpp"
#include "conformance/support/guarded_memory.hpp"
#include "conformance/support/problems.hpp"
#include "formats/registry.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

namespace gqmm::conformance {

using namespace detail;

namespace {

constexpr Dtype compute_types[] = {Dtype::float32, Dtype::float16, Dtype::bfloat16};
constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float nan = std::numeric_limits<float>::quiet_NaN();

std::size_t to_size(std::int64_t count) { return static_cast<std::size_t>(count); }

// Every format and group size, transposed and not, with every type of x.
std::vector<Spec> all_specs(std::uint64_t seed) {
  std::vector<Spec> specs;
  for (const bool transpose : {true, false}) {
    for (const Format& format : formats()) {
      for (const int group_size : format.group_sizes) {
        for (const Dtype x_dtype : compute_types) {
          Spec spec;
          spec.format = &format;
          spec.group_size = group_size;
          spec.transpose = transpose;
          spec.x_dtype = x_dtype;
          spec.scale_dtype = specs.size() % 2 == 0 ? Dtype::float32 : x_dtype;
          spec.N = transpose ? 19 : group_size;
          spec.K = 3 * std::max(32, group_size);
          spec.pairs = {7, 2, 1};
          spec.seed = seed++;
          specs.push_back(spec);
        }
      }
    }
  }
  return specs;
}

// May output [pair, m, n] differ from that of the unchanged problem?
using Touched = std::function<bool(std::int64_t pair, std::int64_t n)>;

// On every instruction set: each output of the changed problem keeps the contract (the same NaN or Inf where the reference has
// one), and those that the change does not touch keep their bits.
void expect_flow(const Spec& spec, const Contents& clean, const Contents& changed, const Touched& touched) {
  const RestoreInstructionSet restore;
  const Operands clean_operands = lay_out_operands(spec, clean);
  const Operands operands = lay_out_operands(spec, changed);
  const Lowered lowered = lower(operands);
  const Oracle oracle(lowered.problem);
  for (const std::string& set : supported_instruction_sets()) {
    const std::string description = fmt::format("on {}: {}", set, describe(spec));
    SCOPED_TRACE(description);
    set_crash_note(description.c_str());
    set_instruction_set(set);
    const array expected = call_poisoned(clean_operands);
    const array y = call_poisoned(operands);
    ASSERT_TRUE(keeps(judge(lowered.problem, oracle, y)));
    const std::size_t itemsize = size_of(y.dtype());
    for (std::int64_t i = 0; i < y.size(); ++i) {
      const std::int64_t pair = i / (spec.M * spec.N);
      const std::size_t at = to_size(i) * itemsize;
      if (!touched(pair, i % spec.N)) {
        ASSERT_TRUE(std::equal(y.bytes() + at, y.bytes() + at + itemsize, expected.bytes() + at))
            << "output (pair " << pair << ", n " << i % spec.N << ") changed from "
            << load_float(expected.bytes() + at, y.dtype()) << " to " << load_float(y.bytes() + at, y.dtype());
      }
    }
  }
}

// The pairs that read matrix `lhs` of x, or expert `rhs`.
Touched pairs_with_lhs(const Contents& c, std::int64_t lhs) {
  return [&c, lhs](std::int64_t pair, std::int64_t) { return c.lhs[to_size(pair)] == lhs; };
}

TEST(SpecialValues, NanOrInfinityInXReachesItsRowOnly) {
  for (const Spec& spec : all_specs(300000)) {
    const Contents clean = random_contents(spec);
    for (const float value : {nan, infinity, -infinity}) {
      Random random(spec.seed);
      Contents changed = clean;
      const std::int64_t lhs = clean.lhs[0];
      changed.x[to_size(lhs * spec.K + random.integer(0, spec.K - 1))] = value;
      expect_flow(spec, clean, changed, pairs_with_lhs(clean, lhs));
    }
    Contents changed = clean;  // one of each sign in one group
    const std::int64_t lhs = clean.lhs.back();
    changed.x[to_size(lhs * spec.K + 1)] = infinity;
    changed.x[to_size(lhs * spec.K + 9)] = -infinity;
    expect_flow(spec, clean, changed, pairs_with_lhs(clean, lhs));
    if (HasFailure()) {
      return;
    }
  }
}

// Number of a scale (or bias) of expert 0, and the outputs that it reaches.
struct ScalePlace {
  std::size_t at;
  Touched touched;
};

ScalePlace random_scale(const Spec& spec, const Contents& c, Random& random) {
  const std::int64_t groups = (spec.transpose ? spec.K : spec.N) / spec.group_size;
  const std::int64_t row = random.integer(0, (spec.transpose ? spec.N : spec.K) - 1);
  const std::int64_t group = random.integer(0, groups - 1);
  const Touched touched = [&spec, &c, row, group](std::int64_t pair, std::int64_t n) {
    return c.rhs[to_size(pair)] == 0 && (spec.transpose ? n == row : n / spec.group_size == group);
  };
  return {to_size(row * groups + group), touched};
}

TEST(SpecialValues, NanOrInfinityInAScaleOrBiasReachesItsOutputsOnly) {
  for (const Spec& spec : all_specs(310000)) {
    Random random(spec.seed);
    const Contents clean = random_contents(spec);
    if (spec.format->has_biases) {
      for (const float value : {nan, infinity, -infinity}) {
        Contents changed = clean;
        const ScalePlace scale = random_scale(spec, clean, random);
        changed.scales[scale.at] = value;
        expect_flow(spec, clean, changed, scale.touched);
        changed = clean;
        const ScalePlace bias = random_scale(spec, clean, random);
        changed.biases[bias.at] = value;
        expect_flow(spec, clean, changed, bias.touched);
      }
    } else if (spec.format->scale_encoding == ScaleEncoding::e8m0) {
      Contents changed = clean;
      const ScalePlace place = random_scale(spec, clean, random);
      changed.scale_bytes[place.at] = 255;  // Inf
      expect_flow(spec, clean, changed, place.touched);
    } else {
      for (const std::uint8_t byte : {0x7f, 0xff}) {  // NaN
        Contents changed = clean;
        const ScalePlace place = random_scale(spec, clean, random);
        changed.scale_bytes[place.at] = byte;
        expect_flow(spec, clean, changed, place.touched);
      }
    }
    if (HasFailure()) {
      return;
    }
  }
}

TEST(SpecialValues, ANanOrInfiniteCodeReachesItsOutputOnly) {
  for (const Spec& spec : all_specs(320000)) {
    if (!has_special_codes(*spec.format)) {
      continue;
    }
    const SmallFloat& type = *spec.format->float_code;
    const unsigned sign = type.magnitude_mask() + 1;
    Random random(spec.seed);
    const Contents clean = random_contents(spec);
    for (const unsigned code : {type.first_special(), type.magnitude_mask(), sign | type.first_special(), 2 * sign - 1}) {
      Contents changed = clean;
      const std::int64_t n = random.integer(0, spec.N - 1);
      const std::int64_t k = random.integer(0, spec.K - 1);
      set_code(spec, changed, 0, spec.transpose ? n : k, spec.transpose ? k : n, code);
      expect_flow(spec, clean, changed,
                  [&](std::int64_t pair, std::int64_t column) { return clean.rhs[to_size(pair)] == 0 && column == n; });
    }
  }
}

// Changes every problem and expects the contract for all of it.
void expect_contract(std::uint64_t seed, const std::function<void(const Spec&, Contents&, Random&)>& change) {
  for (const Spec& spec : all_specs(seed)) {
    Random random(spec.seed);
    Contents contents = random_contents(spec);
    change(spec, contents, random);
    expect_flow(spec, contents, contents, [](std::int64_t, std::int64_t) { return false; });
    if (::testing::Test::HasFailure()) {
      return;
    }
  }
}

TEST(SpecialValues, EveryScaleByteOfTheMicroscalingFormatsHasItsValue) {
  expect_contract(330000, [](const Spec& spec, Contents& c, Random& random) {
    // The largest byte whose every weight is a float32: 448 · 2^119, 6 · 2^125; every E4M3 is small enough.
    const int largest =
        spec.format->scale_encoding == ScaleEncoding::e8m0 ? 254 - std::ilogb(largest_value(*spec.format->float_code)) : 255;
    // Infinities, or sums beyond the range: together they would be NaN to a float and infinite to the reference.
    const bool infinities = random.chance(0.5);
    for (std::uint8_t& byte : c.scale_bytes) {
      byte = static_cast<std::uint8_t>(random.integer(0, infinities ? largest - 16 : largest));
      byte = infinities && random.chance(0.05) ? 255 : byte;
    }
  });
}

TEST(SpecialValues, SubnormalActivationsAreNotFlushed) {
  expect_contract(340000, [](const Spec& spec, Contents& c, Random& random) {
    const double smallest = spec.x_dtype == Dtype::float32 ? 0x1p-149 : spec.x_dtype == Dtype::float16 ? 0x1p-24 : 0x1p-133;
    const bool all = random.chance(0.5);
    for (float& x : c.x) {
      x = all || random.chance(0.5) ? static_cast<float>(smallest * static_cast<double>(random.integer(-100, 100))) : x;
    }
    for (float& scale : c.scales) {  // lift the results into the normal range, where the bound is relative
      scale *= random.chance(0.5) ? 1.0F : 0x1p20F;
    }
  });
}

TEST(SpecialValues, SubnormalScalesAndBiasesAreNotFlushed) {
  expect_contract(350000, [](const Spec& spec, Contents& c, Random& random) {
    const float smallest = spec.scale_dtype == Dtype::float32   ? 0x1p-149F
                           : spec.scale_dtype == Dtype::float16 ? 0x1p-24F
                                                                : 0x1p-133F;
    for (std::size_t i = 0; i < c.scales.size(); ++i) {
      c.scales[i] = random.chance(0.8) ? smallest * static_cast<float>(random.integer(-60, 60)) : c.scales[i];
      c.biases[i] = random.chance(0.8) ? smallest * static_cast<float>(random.integer(-999, 999)) : c.biases[i];
    }
    for (std::uint8_t& byte : c.scale_bytes) {
      byte = static_cast<std::uint8_t>(random.integer(0, 4));
    }
    if (spec.x_dtype != Dtype::float16) {
      for (float& x : c.x) {
        x *= 1e20F;
      }
    }
  });
}

TEST(SpecialValues, HugeActivationsKeepTheBound) {
  expect_contract(360000, [](const Spec& spec, Contents& c, Random& random) {
    const float factor = spec.x_dtype == Dtype::float16 ? 16000.0F : std::exp2(static_cast<float>(random.integer(40, 110)));
    for (float& x : c.x) {
      x *= random.chance(0.7) ? factor : 1.0F;
    }
    for (std::size_t i = 0; i < c.scales.size(); ++i) {  // small weights: the results are finite
      c.scales[i] *= 0x1p-8F;
      c.biases[i] *= 0x1p-8F;
    }
  });
}

TEST(SpecialValues, HugeScalesKeepTheBound) {
  expect_contract(370000, [](const Spec& spec, Contents& c, Random& random) {
    const float factor = spec.scale_dtype == Dtype::float16 ? 0x1p12F : std::exp2(static_cast<float>(random.integer(30, 118)));
    for (std::size_t i = 0; i < c.scales.size(); ++i) {
      const float f = random.chance(0.8) ? factor : 1.0F;
      c.scales[i] *= f;
      c.biases[i] *= f;
    }
    for (std::uint8_t& byte : c.scale_bytes) {
      byte = spec.format->scale_encoding == ScaleEncoding::e8m0 ? static_cast<std::uint8_t>(random.integer(100, 235))
                                                                : static_cast<std::uint8_t>(random.integer(0x60, 0x7e));
    }
    for (float& x : c.x) {
      x *= spec.x_dtype == Dtype::float16 ? 0x1p-8F : 0x1p-30F;
    }
  });
}

// Where the exact sum is far beyond the range of the result there is no bound, but a finite result would be wrong.
TEST(SpecialValues, SumsBeyondTheRangeAreNotFinite) {
  for (Spec spec : all_specs(380000)) {
    if (!spec.format->has_biases) {
      continue;
    }
    spec.scale_dtype = Dtype::float32;
    spec.values = Values::positive;
    Contents contents = random_contents(spec);
    for (std::size_t i = 0; i < contents.scales.size(); ++i) {
      contents.scales[i] = 3e38F / static_cast<float>(spec.format->integer.max_u);
      contents.biases[i] = i % 2 == 0 ? 1e38F : 0.0F;
    }
    const Operands operands = lay_out_operands(spec, contents);
    const Lowered lowered = lower(operands);
    const Oracle oracle(lowered.problem);
    const RestoreInstructionSet restore;
    for (const std::string& set : supported_instruction_sets()) {
      SCOPED_TRACE(fmt::format("on {}: {}", set, describe(spec)));
      set_instruction_set(set);
      const array y = call_poisoned(operands);
      std::int64_t beyond = 0;
      for (std::int64_t i = 0; i < y.size(); ++i) {
        const ReferenceValue& expected = oracle.at(i / spec.N, 0, i % spec.N);
        const float actual = load_float(y.bytes() + i * y.itemsize(), y.dtype());
        beyond += expected.y > 1e39 ? 1 : 0;
        ASSERT_TRUE(expected.y <= 1e39 || !(actual < infinity)) << "expected " << expected.y << ", actual " << actual;
      }
      ASSERT_GT(beyond, 0) << "nothing was tested";
    }
  }
}

TEST(SpecialValues, ZeroActivationsGiveZero) {
  const RestoreInstructionSet restore;
  for (const Spec& spec : all_specs(390000)) {
    Contents contents = random_contents(spec);
    Random random(spec.seed);
    for (float& x : contents.x) {
      x = random.chance(0.5) ? 0.0F : -0.0F;
    }
    const Operands operands = lay_out_operands(spec, contents);
    for (const std::string& set : supported_instruction_sets()) {
      SCOPED_TRACE(fmt::format("on {}: {}", set, describe(spec)));
      set_instruction_set(set);
      const array y = call_poisoned(operands);
      for (std::int64_t i = 0; i < y.size(); ++i) {
        ASSERT_EQ(load_float(y.bytes() + i * y.itemsize(), y.dtype()), 0.0F) << "output " << i;
      }
    }
  }
}

TEST(SpecialValues, ZeroScalesGiveTheBiasesAlone) {
  expect_contract(400000, [](const Spec&, Contents& c, Random& random) {
    for (float& scale : c.scales) {
      scale = random.chance(0.7) ? 0.0F : scale;
    }
    for (std::uint8_t& byte : c.scale_bytes) {
      byte = random.chance(0.7) ? 0 : byte;
    }
  });
}

TEST(SpecialValues, HeavyTailedActivationsKeepTheBound) {
  for (const double sigma : {1.0, 2.0, 4.0}) {
    expect_contract(410000, [sigma](const Spec&, Contents& c, Random& random) {
      for (float& x : c.x) {
        const double magnitude = std::min(6e4, std::exp(sigma * random.normal()));
        x = static_cast<float>(random.chance(0.5) ? magnitude : -magnitude);
      }
    });
  }
  expect_contract(420000, [](const Spec&, Contents& c, Random& random) {
    for (float& x : c.x) {
      x = static_cast<float>(random.normal() * random.normal() * random.normal());
    }
  });
}

// Whole groups of values just below, at and above a power of two: rounding up must raise the exponent, not saturate.
TEST(SpecialValues, ValuesBesideAPowerOfTwoDoNotSaturate) {
  expect_contract(430000, [](const Spec& spec, Contents& c, Random& random) {
    for (std::size_t i = 0; i < c.x.size(); ++i) {
      const double distance = std::exp2(-static_cast<double>(random.integer(4, 24)));
      const double power = std::exp2(static_cast<double>(static_cast<std::int64_t>(i) / spec.K % 5));
      c.x[i] = static_cast<float>((random.chance(0.9) ? 1 : -1) * power * (1 - distance * (random.chance(0.8) ? 1 : -1)));
    }
  });
}

TEST(SpecialValues, AnExtremeGlobalScaleFlowsLikeAFloat) {
  for (Spec spec : all_specs(440000)) {
    if (!spec.format->has_global_scale) {
      continue;
    }
    spec.global_scale = true;
    const Contents clean = random_contents(spec);
    for (const float value : {nan, infinity, 0.0F, -1000.0F, 1e-30F, 1e-42F, 1e30F}) {
      Contents changed = clean;
      changed.global_scales[0] = value;
      expect_flow(spec, clean, changed, [&](std::int64_t pair, std::int64_t) { return clean.rhs[to_size(pair)] == 0; });
    }
  }
}

}  // namespace
}  // namespace gqmm::conformance
