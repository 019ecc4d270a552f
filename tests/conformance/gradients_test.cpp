// The gradients: their bounds against sums in double precision, and their bits, for random problems of every format, transpose,
// type, layout and form of indices.
#include "conformance/support/check.hpp"
#include "conformance/support/gradient_oracle.hpp"
#include "conformance/support/guarded_memory.hpp"
#include "conformance/support/random_problem.hpp"
#include "formats/registry.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace gqmm::conformance {

using namespace detail;

namespace {

constexpr Dtype compute_types[] = {Dtype::float32, Dtype::float16, Dtype::bfloat16};

std::size_t to_size(std::int64_t count) { return static_cast<std::size_t>(count); }

bool has_weight_gradients(const Spec& spec) { return spec.format == nullptr || spec.format->has_biases; }

/// A problem and the gradient of its result.
struct GradientCase {
  Spec spec;
  Operands operands;
  array dy;
};

GradientCase make_case(const Spec& spec) {
  Random random(spec.seed ^ 0x5eedU);
  GradientCase made = {.spec = spec, .operands = make_operands(spec), .dy = {}};
  const Lowered lowered = lower(made.operands);
  const Shape& shape = lowered.result.shape();
  std::vector<float> values(to_size(lowered.result.size()));
  std::generate(values.begin(), values.end(), [&] { return static_cast<float>(random.normal()); });
  const Dtype dtype = random.one_of(compute_types);
  made.dy = lay_out(bytes_of(values, dtype), shape, dtype, random.one_of(all_layouts), random);
  return made;
}

GradientCase random_case(std::uint64_t seed) {
  Random random(seed ^ 0xabcdU);
  Spec spec = random_spec(seed);
  spec.index_form = random.one_of(all_index_forms);
  spec.layout = random.one_of(all_layouts);
  return make_case(spec);
}

/// All gradients that a case has.
struct Gradients {
  std::optional<array> x;  // or a
  std::optional<array> b;
  std::optional<array> scales;
  std::optional<array> biases;
};

GatherQmmVjpOptions options_of(const GradientCase& c, int threads) {
  const GatherQmmOptions& product = c.operands.options;
  const bool of_weights = has_weight_gradients(c.spec);
  return {.lhs_indices = product.lhs_indices,
          .rhs_indices = product.rhs_indices,
          .sorted_indices = product.sorted_indices,
          .wrt = {.x = true, .scales = of_weights, .biases = of_weights},
          .stream = {.threads = threads}};
}

Gradients gradients_of(const GradientCase& c, int threads = 1, const PackedWeights* packed = nullptr) {
  const GatherQmmVjpOptions options = options_of(c, threads);
  if (c.operands.dense) {
    DenseGradients result = gather_mm_vjp(c.dy, c.operands.x, c.operands.weights.w,
                                          {.lhs_indices = options.lhs_indices,
                                           .rhs_indices = options.rhs_indices,
                                           .sorted_indices = options.sorted_indices,
                                           .wrt = {.a = true, .b = true},
                                           .stream = options.stream});
    return {.x = result.a, .b = result.b, .scales = {}, .biases = {}};
  }
  QuantizedGradients result = packed != nullptr ? gather_qmm_vjp(c.dy, c.operands.x, *packed, options)
                                                : gather_qmm_vjp(c.dy, c.operands.x, c.operands.weights, options);
  return {.x = result.x, .b = {}, .scales = result.scales, .biases = result.biases};
}

/// What a backend gets, for the oracle. It must outlive the oracle's use.
LoweredGradients lower_gradients(const GradientCase& c) {
  const GatherQmmVjpOptions options = options_of(c, 1);
  if (c.operands.dense) {
    return lower_gather_mm_vjp(c.dy, c.operands.x, c.operands.weights.w,
                               {.lhs_indices = options.lhs_indices,
                                .rhs_indices = options.rhs_indices,
                                .sorted_indices = options.sorted_indices,
                                .wrt = {.a = true, .b = true}});
  }
  return lower_gather_qmm_vjp(c.dy, c.operands.x, c.operands.weights, options);
}

::testing::AssertionResult same_gradients(const Gradients& expected, const Gradients& actual) {
  for (const auto& [name, member] : {std::pair("x", &Gradients::x), std::pair("b", &Gradients::b),
                                     std::pair("scales", &Gradients::scales), std::pair("biases", &Gradients::biases)}) {
    const std::optional<array>& one = expected.*member;
    const std::optional<array>& other = actual.*member;
    if (one.has_value() != other.has_value()) {
      return ::testing::AssertionFailure() << "one has a gradient of " << name << ", the other has none";
    }
    if (one) {
      const ::testing::AssertionResult same = same_bits(*one, *other);
      if (!same) {
        return ::testing::AssertionFailure() << "gradient of " << name << ": " << same.message();
      }
    }
  }
  return ::testing::AssertionSuccess();
}

void expect_within_bounds(const GradientCase& c, const Gradients& gradients) {
  const LoweredGradients lowered = lower_gradients(c);
  EXPECT_TRUE(keeps(input_gradient(lowered.problem), *gradients.x)) << "gradient of x";
  if (gradients.b) {
    EXPECT_TRUE(keeps(weight_gradient(lowered.problem, WeightPart::dense), *gradients.b)) << "gradient of b";
  }
  if (gradients.scales) {
    EXPECT_TRUE(keeps(weight_gradient(lowered.problem, WeightPart::scales), *gradients.scales)) << "gradient of scales";
    EXPECT_TRUE(keeps(weight_gradient(lowered.problem, WeightPart::biases), *gradients.biases)) << "gradient of biases";
  }
}

int cases() { return quick() ? 40 : 600; }

TEST(Gradients, OfRandomProblemsKeepTheirBounds) {
  for (int i = 0; i < cases() && !HasFailure(); ++i) {
    const GradientCase c = random_case(7000 + static_cast<std::uint64_t>(i));
    SCOPED_TRACE(describe(c.spec));
    expect_within_bounds(c, gradients_of(c));
  }
}

TEST(Gradients, HaveTheSameBitsOnEveryInstructionSetAndNumberOfThreads) {
  const RestoreInstructionSet restore;
  for (int i = 0; i < cases() / 2 && !HasFailure(); ++i) {
    const GradientCase c = random_case(17000 + static_cast<std::uint64_t>(i));
    SCOPED_TRACE(describe(c.spec));
    std::optional<Gradients> expected;
    for (const std::string& set : supported_instruction_sets()) {
      set_instruction_set(set);
      const Gradients gradients = gradients_of(c, 1 + i % 3);
      if (expected) {
        EXPECT_TRUE(same_gradients(*expected, gradients)) << set;
      }
      expected = gradients;
    }
    EXPECT_TRUE(same_gradients(*expected, gradients_of(c, 1))) << "one thread";
  }
}

TEST(Gradients, OfPackedWeightsHaveTheBitsOfWeightsInPlace) {
  const RestoreInstructionSet restore;
  for (int i = 0; i < cases() && !HasFailure(); ++i) {
    const GradientCase c = random_case(27000 + static_cast<std::uint64_t>(i));
    if (c.operands.dense) {
      continue;
    }
    SCOPED_TRACE(describe(c.spec));
    const PackedWeights packed = pack(c.operands);
    for (const std::string& set : supported_instruction_sets()) {
      set_instruction_set(set);
      EXPECT_TRUE(same_gradients(gradients_of(c), gradients_of(c, 2, &packed))) << set;
    }
  }
}

/// Every format with each transpose, 300 rows for one expert: blocks of rows, of K and of N that are not the first ones.
TEST(Gradients, OfLargeProblemsOfEveryFormatKeepTheirBounds) {
  std::uint64_t seed = 37000;
  for (const bool transpose : {true, false}) {
    for (const Format& format : formats()) {
      const int group_size = format.group_sizes[++seed % format.group_sizes.size()];
      Spec spec;
      spec.format = &format;
      spec.group_size = group_size;
      spec.transpose = transpose;
      spec.pairs = {3, 300, 0, 9};
      spec.seed = seed;
      spec.N = transpose ? 150 : 2 * 128 + group_size;
      spec.K = transpose ? 2 * 128 + group_size : 150;
      const GradientCase c = make_case(spec);
      SCOPED_TRACE(describe(spec));
      const Gradients gradients = gradients_of(c, 2);
      expect_within_bounds(c, gradients);
      const PackedWeights packed = pack(c.operands);
      EXPECT_TRUE(same_gradients(gradients, gradients_of(c, 1, &packed)));
    }
  }
}

Spec spec_for_bits(std::uint64_t seed, bool transpose) {
  Spec spec;
  spec.format = find_format(Mode::affine, 4);
  spec.group_size = 32;
  spec.transpose = transpose;
  spec.N = transpose ? 40 : 96;
  spec.K = transpose ? 96 : 40;
  spec.pairs = {2, 7, 0, 150};
  spec.seed = seed;
  return spec;
}

/// The bytes of one matrix of a gradient, which has `count` of them.
std::span<const std::byte> matrix_of(const array& gradient, std::int64_t matrix, std::int64_t count) {
  const std::size_t bytes = gradient.nbytes() / to_size(count);
  return {gradient.bytes() + to_size(matrix) * bytes, bytes};
}

TEST(Gradients, OfAnExpertHaveTheSameBitsWhateverTheOthersDo) {
  for (const bool transpose : {true, false}) {
    const GradientCase c = make_case(spec_for_bits(5, transpose));
    const Gradients all = gradients_of(c);
    const std::int64_t pairs = c.dy.dim(0);
    const LoweredGradients lowered = lower_gradients(c);
    const std::vector<std::int64_t>& lhs = lowered.operands.lhs;
    const std::vector<std::int64_t>& rhs = lowered.operands.rhs;
    for (const std::int64_t expert : {0, 1, 3}) {
      // The same call with the pairs of this expert alone.
      std::vector<std::int64_t> kept_lhs;
      std::vector<std::int64_t> kept_rhs;
      array dy = array::empty({std::count(rhs.begin(), rhs.end(), expert), c.dy.dim(1), c.dy.dim(2)}, c.dy.dtype());
      const array contiguous = copy_row_major(c.dy);
      for (std::int64_t pair = 0; pair < pairs; ++pair) {
        if (rhs[to_size(pair)] == expert) {
          std::memcpy(dy.mutable_bytes() + static_cast<std::int64_t>(kept_rhs.size()) * dy.stride(0),
                      contiguous.bytes() + pair * contiguous.stride(0), to_size(dy.stride(0)));
          kept_lhs.push_back(lhs[to_size(pair)]);
          kept_rhs.push_back(rhs[to_size(pair)]);
        }
      }
      const QuantizedGradients alone = gather_qmm_vjp(dy, c.operands.x, c.operands.weights,
                                                      {.lhs_indices = array::borrow(kept_lhs, {dy.dim(0)}),
                                                       .rhs_indices = array::borrow(kept_rhs, {dy.dim(0)}),
                                                       .wrt = {.x = false, .scales = true, .biases = true}});
      EXPECT_FALSE(alone.x);
      for (const auto& [of_all, of_one] : {std::pair(all.scales, alone.scales), std::pair(all.biases, alone.biases)}) {
        EXPECT_TRUE(std::ranges::equal(matrix_of(*of_all, expert, 4), matrix_of(*of_one, expert, 4))) << "expert " << expert;
      }
    }
  }
}

TEST(Gradients, OfMatricesThatNoPairUsesAreZero) {
  for (const bool transpose : {true, false}) {
    const GradientCase c = make_case(spec_for_bits(6, transpose));
    const Gradients gradients = gradients_of(c);
    for (const std::optional<array>& gradient : {gradients.scales, gradients.biases}) {
      const auto is_zero = [](std::byte b) { return b == std::byte{0}; };
      EXPECT_TRUE(std::ranges::all_of(matrix_of(*gradient, 2, 4), is_zero));
      EXPECT_FALSE(std::ranges::all_of(matrix_of(*gradient, 3, 4), is_zero));
    }
    const LoweredGradients lowered = lower_gradients(c);
    const std::vector<std::int64_t>& lhs = lowered.operands.lhs;
    for (std::int64_t matrix = 0; matrix < c.operands.x.dim(0); ++matrix) {
      const bool used = std::count(lhs.begin(), lhs.end(), matrix) != 0;
      const std::span<const std::byte> dx = matrix_of(*gradients.x, matrix, c.operands.x.dim(0));
      EXPECT_EQ(std::ranges::any_of(dx, [](std::byte b) { return b != std::byte{0}; }), used) << "matrix " << matrix;
    }
  }
}

/// The bounds are close enough to see one element that is wrong by a fifth.
TEST(Gradients, BoundsSeeAChangedElementOfX) {
  for (const bool transpose : {true, false}) {
    Spec spec = spec_for_bits(8, transpose);
    Contents contents = random_contents(spec);
    GradientCase c = make_case(spec);
    c.operands = lay_out_operands(spec, contents);
    const Gradients gradients = gradients_of(c);
    expect_within_bounds(c, gradients);
    contents.x[3] = contents.x[3] * 1.2F + 0.1F;
    c.operands = lay_out_operands(spec, contents);
    const LoweredGradients changed = lower_gradients(c);
    ASSERT_NE(std::count(changed.operands.lhs.begin(), changed.operands.lhs.end(), 0), 0) << "matrix 0 of x is used";
    EXPECT_FALSE(keeps(weight_gradient(changed.problem, WeightPart::scales), *gradients.scales));
    EXPECT_FALSE(keeps(weight_gradient(changed.problem, WeightPart::biases), *gradients.biases));
  }
}

TEST(Gradients, BoundsSeeAChangedCode) {
  for (const bool transpose : {true, false}) {
    Spec spec = spec_for_bits(9, transpose);
    Contents contents = random_contents(spec);
    GradientCase c = make_case(spec);
    c.operands = lay_out_operands(spec, contents);
    const Gradients gradients = gradients_of(c);
    set_code(spec, contents, 3, 0, 5, code_at(spec, contents, 3, 0, 5) ^ 4U);
    c.operands = lay_out_operands(spec, contents);
    const LoweredGradients changed = lower_gradients(c);
    EXPECT_FALSE(keeps(input_gradient(changed.problem), *gradients.x));
    EXPECT_FALSE(keeps(weight_gradient(changed.problem, WeightPart::scales), *gradients.scales));
  }
}

}  // namespace
}  // namespace gqmm::conformance
