// The bound must be able to fail: results that are a little wrong, in the ways in which kernels go wrong, violate it.
#include "conformance/support/check.hpp"
#include "conformance/support/problems.hpp"
#include "cpu/backend.hpp"
#include "formats/registry.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <utility>
#include <vector>

namespace gqmm::conformance {

using namespace detail;

namespace {

std::size_t to_size(std::int64_t count) { return static_cast<std::size_t>(count); }

Spec ordinary_spec(const Format& format, int group_size, std::int64_t groups) {
  Spec spec;
  spec.format = &format;
  spec.group_size = group_size;
  spec.N = 21;
  spec.K = groups * group_size;
  spec.pairs = {5, 3};
  spec.seed = 500000;
  return spec;
}

// One group and several: in long rows the bound, which adds up worst cases, sees only larger mistakes.
void for_each_format(const std::function<void(const Spec&)>& function) {
  for (const Format& format : formats()) {
    for (const int group_size : format.group_sizes) {
      for (const std::int64_t groups : {1, 2, 5}) {
        const Spec spec = ordinary_spec(format, group_size, groups);
        SCOPED_TRACE(describe(spec));
        function(spec);
      }
    }
  }
}

// The worst fraction of the bound of `spec` that the results of other contents, or other options, reach.
double worst_fraction(const Spec& spec, const Operands& truth, const array& y) {
  const Lowered lowered = lower(truth);
  EXPECT_EQ(lowered.problem.y_dtype, spec.x_dtype);
  return judge(lowered.problem, Oracle(lowered.problem), y).worst;
}

TEST(Bound, HoldsForTheOrdinaryProblemsOfThisFile) {
  for_each_format([](const Spec& spec) {
    const Operands operands = make_operands(spec);
    EXPECT_LE(worst_fraction(spec, operands, call(operands)), 1);
  });
}

TEST(Bound, OfFloat32IsViolatedByEightBitActivations) {
  for_each_format([](const Spec& spec) {
    if (!spec.format->integer.exists) {
      return;  // the float path has one precision
    }
    Operands operands = make_operands(spec);
    operands.options.precision = Precision::fast;
    const array y = call(operands);
    operands.options.precision = Precision::standard;
    EXPECT_GT(worst_fraction(spec, operands, y), 1);
  });
}

TEST(Bound, OfFloat32IsViolatedByResultsRoundedToBfloat16) {
  for_each_format([](const Spec& spec) {
    const Operands operands = make_operands(spec);
    array y = call(operands);
    for (std::int64_t i = 0; i < y.size(); ++i) {
      float& value = y.mutable_data<float>()[i];
      value = float_from_bfloat16(bfloat16_from_float(value));
    }
    EXPECT_GT(worst_fraction(spec, operands, y), 1);
  });
}

// The smallest step up or down of a code.
unsigned neighbour(const Format& format, unsigned code) {
  const bool steps_up = format.float_code ? (code & 1U) == 0 : code == 0;
  return steps_up ? code + 1 : code - 1;
}

// A step of a wide float next to zero is below any float32 sum's resolution, so the highest bit of its exponent changes.
unsigned far_away(const SmallFloat& type, unsigned code) { return code ^ (1U << (type.bits() - 2)); }

TEST(Bound, IsViolatedByOneCodeOffByOne) {
  for_each_format([](const Spec& spec) {
    const Contents contents = random_contents(spec);
    const Operands truth = lay_out_operands(spec, contents);
    Random random(1);
    for (int repetition = 0; repetition < 5; ++repetition) {
      const std::int64_t n = random.integer(0, spec.N - 1);
      const std::int64_t k = random.integer(0, spec.K - 1);
      Contents changed = contents;
      const unsigned code = code_at(spec, contents, 0, n, k);
      const unsigned next =
          spec.format->integer.exists ? neighbour(*spec.format, code) : far_away(*spec.format->float_code, code);
      set_code(spec, changed, 0, n, k, next);
      EXPECT_GT(worst_fraction(spec, truth, call(lay_out_operands(spec, changed))), 1) << "n " << n << ", k " << k;
    }
  });
}

TEST(Bound, IsViolatedByTheNeighbouringGroupsScale) {
  for_each_format([](const Spec& spec) {
    const Contents contents = random_contents(spec);
    const Operands truth = lay_out_operands(spec, contents);
    const auto worst_with = [&](const std::function<void(Contents&)>& change) {
      Contents changed = contents;
      change(changed);
      return worst_fraction(spec, truth, call(lay_out_operands(spec, changed)));
    };
    if (spec.format->has_biases) {
      EXPECT_GT(worst_with([](Contents& c) { c.scales[0] = c.scales[1]; }), 1) << "scale";
      EXPECT_GT(worst_with([](Contents& c) { c.biases[0] = c.biases[1]; }), 1) << "bias";
    } else {
      EXPECT_GT(worst_with([](Contents& c) { ++c.scale_bytes[0]; }), 1) << "scale byte";
    }
  });
}

TEST(Bound, IsViolatedByAMissingLastElementOfX) {
  for_each_format([](const Spec& spec) {
    const Contents contents = random_contents(spec);
    Contents changed = contents;
    for (std::size_t row_end = to_size(spec.K); row_end <= changed.x.size(); row_end += to_size(spec.K)) {
      changed.x[row_end - 1] = 0;
    }
    EXPECT_GT(worst_fraction(spec, lay_out_operands(spec, contents), call(lay_out_operands(spec, changed))), 1);
  });
}

TEST(Bound, IsViolatedByExchangedRowsOrColumnsAndByNan) {
  for_each_format([](const Spec& spec) {
    const Operands operands = make_operands(spec);
    const auto with = [&](const std::function<void(float*)>& change) {
      array y = call(operands);
      change(y.mutable_data<float>());
      return worst_fraction(spec, operands, y);
    };
    EXPECT_GT(with([&](float* y) { std::swap(y[0], y[1]); }), 1) << "columns";
    EXPECT_GT(with([&](float* y) { std::swap_ranges(y, y + spec.N, y + 3 * spec.N); }), 1) << "rows";
    EXPECT_GT(with([&](float* y) { y[spec.N - 1] = std::numeric_limits<float>::quiet_NaN(); }), 1) << "NaN";
    EXPECT_GT(with([&](float* y) { y[spec.N] = 0; }), 1) << "zero";
    // The largest of a few hundred results is not one that cancelled to nearly nothing.
    EXPECT_GT(with([&](float* y) {
                *std::max_element(y, y + 8 * spec.N, [](float a, float b) { return std::fabs(a) < std::fabs(b); }) *= 1.001F;
              }),
              1)
        << "a thousandth";
  });
}

// The bound grows with the number of terms and with all their magnitudes, while errors mostly cancel: in long rows it would not
// see a lost slice. So the slices are counted by what each of them is worth.
class SliceCount : public ::testing::TestWithParam<std::int64_t> {};

double root_mean_square_error(Lowered& lowered, const Oracle& oracle, int slices) {
  lowered.problem.slices = slices;
  cpu::run(lowered.problem);
  double sum = 0;
  const auto outputs = lowered.result.size();
  for (std::int64_t i = 0; i < outputs; ++i) {
    const double error =
        static_cast<double>(lowered.result.data<float>()[i]) - oracle.at(i / lowered.problem.N, 0, i % lowered.problem.N).y;
    sum += error * error;
  }
  return std::sqrt(sum / static_cast<double>(outputs));
}

// Rows per expert: few go through the kernels for decode, many through those for prefill.
TEST_P(SliceCount, EachSliceIsWorthAboutEightBits) {
  const RestoreInstructionSet restore;
  for_each_format([](Spec spec) {
    if (!spec.format->integer.exists) {
      return;
    }
    spec.pairs = {GetParam(), GetParam()};
    const Operands operands = make_operands(spec);
    Lowered lowered = lower(operands);
    const Oracle oracle(lowered.problem);
    for (const std::string& set : supported_instruction_sets()) {
      SCOPED_TRACE(set);
      set_instruction_set(set);
      const double one = root_mean_square_error(lowered, oracle, 1);
      const double two = root_mean_square_error(lowered, oracle, 2);
      const double three = root_mean_square_error(lowered, oracle, 3);
      // Nominally 256, give or take the luck of one row and an exponent raised for the balanced slices; 1 if a slice is lost.
      EXPECT_GT(one, 64 * two);
      // The third slice ends below the rounding of the float32 sums, so that less of it is seen.
      EXPECT_GT(two, 16 * three);
    }
  });
}

INSTANTIATE_TEST_SUITE_P(RowsPerExpert, SliceCount, ::testing::Values(1, 2, 6, 40));

}  // namespace
}  // namespace gqmm::conformance
