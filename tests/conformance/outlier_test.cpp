// Massive activations: values far above the rest of their group, where their weights are exactly zero. They must add nothing to
// the error: 2û · Σ|x||ŵ| for half types, 2^−17 · Σ|x||ŵ| for float32, sums over all k with the true ŵ.
#include "conformance/support/check.hpp"
#include "conformance/support/guarded_memory.hpp"
#include "conformance/support/problems.hpp"
#include "formats/registry.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

namespace gqmm::conformance {

using namespace detail;

namespace {

constexpr Dtype compute_types[] = {Dtype::float32, Dtype::float16, Dtype::bfloat16};

std::size_t to_size(std::int64_t count) { return static_cast<std::size_t>(count); }

// Weights are made exactly zero wherever k is 3 or 11 modulo 16, whatever the expert and the output.
constexpr std::int64_t zero_at[] = {3, 11};
constexpr bool weight_is_zero(std::int64_t k) { return k % 16 == zero_at[0] || k % 16 == zero_at[1]; }

// affine: scale a power of two and bias = −scale · code with one code per group, so that the sum is zero in every type; in the
// other modes the code of zero, of either sign.
void make_weights_zero(const Spec& spec, Contents& contents, Random& random) {
  const Format& format = *spec.format;
  const std::int64_t rows = spec.transpose ? spec.N : spec.K;
  const std::int64_t along = spec.transpose ? spec.K : spec.N;
  const std::int64_t groups = along / spec.group_size;
  for (std::int64_t expert = 0; expert < spec.experts(); ++expert) {
    for (std::int64_t row = 0; row < rows; ++row) {
      for (std::int64_t group = 0; group < groups; ++group) {
        unsigned zero = random.chance(0.5) ? 0U : 1U << (format.bits - 1);
        if (format.has_biases) {
          zero = static_cast<unsigned>(random.integer(0, format.integer.max_u));
          const auto at = to_size((expert * rows + row) * groups + group);
          contents.scales[at] = std::ldexp(random.chance(0.8) ? 1.0F : -1.0F, static_cast<int>(random.integer(-6, -3)));
          contents.biases[at] = -contents.scales[at] * static_cast<float>(zero);
        }
        for (std::int64_t i = group * spec.group_size; i < (group + 1) * spec.group_size; ++i) {
          if (weight_is_zero(spec.transpose ? i : row)) {
            set_code(spec, contents, expert, row, i, zero);
          }
        }
      }
    }
  }
}

enum class Where { one_in_the_row, one_in_every_group, two_in_every_group };

struct Outliers {
  Where where;
  float factor;
};

void add_outliers(const Spec& spec, const Outliers& outliers, float* x, Random& random) {
  const std::int64_t group = std::min<std::int64_t>(spec.K, std::max(16, spec.group_size));
  const std::int64_t chosen = random.integer(0, spec.K / group - 1);
  for (std::int64_t g = 0; g < spec.K / group; ++g) {
    if (outliers.where == Where::one_in_the_row && g != chosen) {
      continue;
    }
    const std::int64_t block = g * group + 16 * random.integer(0, group / 16 - 1);
    const float sign = random.chance(0.5) ? 1.0F : -1.0F;
    if (outliers.where == Where::two_in_every_group) {
      x[block + zero_at[0]] = sign * outliers.factor;
      x[block + zero_at[1]] = outliers.factor * 1.3F;
    } else {
      x[block + random.one_of(zero_at)] = sign * outliers.factor;
    }
  }
}

struct Config {
  const Format* format;
  int group_size;
  bool transpose;
};

std::vector<Config> all_configs() {
  std::vector<Config> configs;
  for (const bool transpose : {true, false}) {
    for (const Format& format : formats()) {
      for (const int group_size : format.group_sizes) {
        configs.push_back({&format, group_size, transpose});
      }
    }
  }
  return configs;
}

std::string name_of_config(const ::testing::TestParamInfo<Config>& info) {
  const Config& c = info.param;
  return fmt::format("{}_{}bit_g{}_{}", gqmm::name_of(c.format->mode), c.format->bits, c.group_size,
                     c.transpose ? "transposed" : "not_transposed");
}

class Outlier : public ::testing::TestWithParam<Config> {
 protected:
  // Rows drawn by `neighbour`, with outliers at some of the zero weights, must keep the bound on every instruction set.
  template <class Neighbour>
  void expect_no_drowning(std::uint64_t seed, const std::vector<Outliers>& kinds, Neighbour neighbour) {
    const RestoreInstructionSet restore;
    for (const Dtype x_dtype : compute_types) {
      for (const Dtype scale_dtype : compute_types) {
        if (!GetParam().format->has_biases && scale_dtype != Dtype::float32) {
          continue;
        }
        for (const std::int64_t groups : {1, 5}) {
          run(spec_for(x_dtype, scale_dtype, groups, seed++), kinds, neighbour);
          if (HasFailure()) {
            return;
          }
        }
      }
    }
  }

 private:
  static Spec spec_for(Dtype x_dtype, Dtype scale_dtype, std::int64_t groups, std::uint64_t seed) {
    const Config& config = GetParam();
    Spec spec;
    spec.format = config.format;
    spec.group_size = config.group_size;
    spec.transpose = config.transpose;
    spec.x_dtype = x_dtype;
    spec.scale_dtype = scale_dtype;
    spec.M = 1;
    spec.N = config.transpose ? 21 : config.group_size;
    spec.K = groups * std::max(32, config.group_size);
    spec.pairs = {13, 1, 3};
    spec.seed = seed;
    return spec;
  }

  template <class Neighbour>
  static void run(const Spec& spec, const std::vector<Outliers>& kinds, Neighbour neighbour) {
    Random random(spec.seed);
    Contents contents = random_contents(spec);
    make_weights_zero(spec, contents, random);
    for (std::int64_t row = 0; row < element_count(contents.x_leading); ++row) {
      float* const x = contents.x.data() + row * spec.K;
      for (std::int64_t k = 0; k < spec.K; ++k) {
        x[k] = neighbour(random);
      }
      add_outliers(spec, kinds[to_size(row) % kinds.size()], x, random);
    }
    Operands operands = lay_out_operands(spec, contents);
    const Lowered lowered = lower(operands);
    const Oracle oracle(lowered.problem);
    for (const std::string& set : supported_instruction_sets()) {
      const std::string description = fmt::format("on {}: {}", set, describe(spec));
      SCOPED_TRACE(description);
      set_crash_note(description.c_str());
      set_instruction_set(set);
      const array y = call_poisoned(operands);
      EXPECT_TRUE(keeps(judge(lowered.problem, oracle, y, outlier_contract)));
      EXPECT_TRUE(keeps(judge(lowered.problem, oracle, y)));
    }
  }
};

// Neighbours of ordinary size: 1, give or take.
float dense_neighbour(Random& random) { return static_cast<float>(random.normal()); }

TEST_P(Outlier, OneOf30000TimesItsNeighboursUnderAZeroWeightAddsNothing) {
  expect_no_drowning(200000, {{Where::one_in_the_row, 30000.0F}}, dense_neighbour);
}

TEST_P(Outlier, OneInEveryGroupAddsNothing) {
  expect_no_drowning(201000, {{Where::one_in_every_group, 30000.0F}}, dense_neighbour);
}

TEST_P(Outlier, OneOf100Or1000TimesItsNeighboursAddsNothing) {
  expect_no_drowning(202000, {{Where::one_in_every_group, 100.0F}, {Where::one_in_every_group, 1000.0F}}, dense_neighbour);
}

TEST_P(Outlier, TwoInEveryGroupAddNothing) {
  expect_no_drowning(203000, {{Where::two_in_every_group, 30000.0F}, {Where::two_in_every_group, 1000.0F}}, dense_neighbour);
}

// After a ReLU most neighbours are zero: the few that are not must not drown either.
TEST_P(Outlier, OneAmongFewNonzeroNeighboursAddsNothing) {
  expect_no_drowning(204000, {{Where::one_in_every_group, 30000.0F}, {Where::one_in_the_row, 1000.0F}},
                     [](Random& random) { return random.chance(0.85) ? 0.0F : static_cast<float>(random.normal()); });
}

// What is large depends on the group.
TEST_P(Outlier, OneAmongSmallNeighboursAddsNothing) {
  expect_no_drowning(205000, {{Where::one_in_every_group, 300.0F}},
                     [](Random& random) { return static_cast<float>(random.normal()) * 0.01F; });
}

INSTANTIATE_TEST_SUITE_P(Formats, Outlier, ::testing::ValuesIn(all_configs()), name_of_config);

}  // namespace
}  // namespace gqmm::conformance
