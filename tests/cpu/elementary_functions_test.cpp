// The elementary functions of activations keep their error bounds, and have the right values at the ends of their ranges. All
// instruction sets have the same bits (vocabulary_test.cpp), so one of them is tested here.
//
// Arguments are every `stride`-th of all 2^32 floats. GQMM_ELEMENTARY_STRIDE=1 takes all of them, which needs seven minutes.
#include "vocabularies.hpp"
#include "vocabulary_operations.hpp"

#include "reference/elementary_functions.hpp"

#include <gqmm/system.hpp>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <string>
#include <string_view>

namespace gqmm::cpu {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

/// The vocabulary of the most capable instruction set that this machine has.
const VocabularyOperations& fastest_vocabulary() {
  const VocabularyOperations* fastest = &scalar_vocabulary();
  for (const NamedVocabulary& vocabulary : vocabularies) {
    for (const InstructionSet& set : instruction_sets()) {
      if (set.name == vocabulary.instruction_set && set.supported) {
        fastest = &vocabulary.operations();
      }
    }
  }
  return *fastest;
}

/// A function, its value in double precision, and its error bound in ulp, which was measured over all arguments.
struct Function {
  std::string_view name;
  double (*exact)(double);
  double bound;
  bool only_nonpositive = false;
  double lowest = -infinity;  // below this argument, the error is at most 2^−126

  void run(const Lanes& x, Lanes& y) const {
    static const VocabularyOperations& set = fastest_vocabulary();
    const Operation* const last = set.operations + set.count;
    const Operation* const operation =
        std::find_if(set.operations, last, [&](const Operation& each) { return each.name == name; });
    ASSERT_NE(operation, last) << name;
    const Lanes in[3] = {x, x, x};
    operation->run(in, &y);
  }
  [[nodiscard]] float operator()(float x) const {
    Lanes in;
    std::fill(std::begin(in.lane), std::end(in.lane), std::bit_cast<std::uint32_t>(x));
    Lanes out = {};
    run(in, out);
    return std::bit_cast<float>(out.lane[0]);
  }
};

/// A double that is beyond the range of float32 becomes infinite.
double rounded_to_infinity(double value) { return value > std::numeric_limits<float>::max() ? infinity : value; }

const Function exponential = {"exp_nonpositive", [](double x) { return std::exp(x); }, exp_ulp, true};
const Function exponential_of_any = {"exp", [](double x) { return rounded_to_infinity(std::exp(x)); }, exp_ulp};
const Function binary_exponential = {"exp2_nonpositive", [](double x) { return std::exp2(x); }, exp2_ulp, true, -126};
const Function logistic = {"sigmoid", [](double x) { return x < 0 ? std::exp(x) / (1 + std::exp(x)) : 1 / (1 + std::exp(-x)); },
                           2.2};
const Function hyperbolic = {"tanh", [](double x) { return std::tanh(x); }, tanh_ulp};
const Function rectifier = {"softplus", [](double x) { return std::max(x, 0.0) + std::log1p(std::exp(-std::fabs(x))); },
                            softplus_ulp};
const Function normal = {"normal_cdf", [](double x) { return std::erfc(-x / std::sqrt(2.0)) / 2; }, normal_cdf_ulp};
const Function functions[] = {exponential, exponential_of_any, binary_exponential, logistic, rectifier, hyperbolic, normal};

/// The distance between neighbouring floats at a value.
double ulp(double value) { return std::ldexp(1.0, std::max(value == 0 ? -149 : std::ilogb(value) - 23, -149)); }

std::uint64_t stride() {
  const char* const wanted = std::getenv("GQMM_ELEMENTARY_STRIDE");
  return wanted == nullptr ? 9973 : std::strtoull(wanted, nullptr, 10);
}

class ElementaryFunctions : public testing::TestWithParam<Function> {};

TEST_P(ElementaryFunctions, KeepTheirBoundsAndPassNaN) {
  const Function& function = GetParam();
  double worst = 0;
  std::string at;
  const std::uint64_t step = stride();
  for (std::uint64_t first = 0; first < std::uint64_t{1} << 32; first += lanes * step) {
    Lanes x;
    for (std::uint64_t l = 0; l < lanes; ++l) {
      x.lane[l] = static_cast<std::uint32_t>(first + l * step) | (function.only_nonpositive ? 0x80000000U : 0U);
    }
    Lanes y = {};
    function.run(x, y);
    for (int l = 0; l < lanes; ++l) {
      const auto argument = std::bit_cast<float>(x.lane[l]);
      const auto actual = std::bit_cast<float>(y.lane[l]);
      if (std::isnan(argument)) {
        ASSERT_TRUE(std::isnan(actual)) << function.name << " of the NaN " << x.lane[l] << " is " << actual;
        continue;
      }
      const double expected = function.exact(argument);
      if (argument < function.lowest) {
        ASSERT_LE(std::abs(actual - expected), 0x1p-126) << function.name << " of " << argument;
        continue;
      }
      const double error = actual == expected ? 0 : std::abs(actual - expected) / ulp(expected);  // both may be infinite
      if (!(error <= worst)) {
        worst = error;
        at = fmt::format("{}({}) = {} instead of {}, {} ulp", function.name, argument, actual, expected, error);
      }
    }
  }
  EXPECT_LE(worst, function.bound) << at;
  RecordProperty("worst", at);
}

INSTANTIATE_TEST_SUITE_P(All, ElementaryFunctions, testing::ValuesIn(functions),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(ElementaryFunctions, HaveTheirLimits) {
  struct Limit {
    const Function& function;
    double x;
    double y;
  };
  const Limit limits[] = {
      {binary_exponential, 0, 1},
      {binary_exponential, -0.0, 1},
      {binary_exponential, -127, 0},
      {binary_exponential, -1e38, 0},
      {binary_exponential, -infinity, 0},
      {exponential, 0, 1},
      {exponential, -0.0, 1},
      {exponential, -1e38, 0},
      {exponential, -infinity, 0},
      {exponential_of_any, 0, 1},
      {exponential_of_any, -0.0, 1},
      {exponential_of_any, 89, infinity},
      {exponential_of_any, 1e38, infinity},
      {exponential_of_any, infinity, infinity},
      {exponential_of_any, -1e38, 0},
      {exponential_of_any, -infinity, 0},
      {rectifier, 1e38, 1e38},
      {rectifier, infinity, infinity},
      {rectifier, -1e38, 0},
      {rectifier, -infinity, 0},
      {logistic, 0, 0.5},
      {logistic, -1e38, 0},
      {logistic, 1e38, 1},
      {logistic, -infinity, 0},
      {logistic, infinity, 1},
      {hyperbolic, 1e38, 1},
      {hyperbolic, -1e38, -1},
      {hyperbolic, infinity, 1},
      {hyperbolic, 0, 0},
      {hyperbolic, -0.0, -0.0},
      {hyperbolic, 1e-45, 1e-45},
      {hyperbolic, -infinity, -1},
      {normal, 0, 0.5},
      {normal, 1e38, 1},
      {normal, -1e38, 0},
      {normal, -infinity, 0},
      {normal, infinity, 1},
  };
  for (const auto& [function, x, y] : limits) {
    const float actual = function(static_cast<float>(x));
    EXPECT_EQ(actual, static_cast<float>(y)) << function.name << " of " << x;
    EXPECT_EQ(std::signbit(actual), std::signbit(y)) << function.name << " of " << x;
  }
}

}  // namespace
}  // namespace gqmm::cpu
