// The error contract (docs/reference/numerics.md), enumerated: instruction set × format × group size × types × precision ×
// transpose × shapes, every output against the double reference of the packed bits. What is registered is tested; nothing is
// listed here.
#include "conformance/support/check.hpp"
#include "conformance/support/guarded_memory.hpp"
#include "conformance/support/problems.hpp"
#include "formats/registry.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

namespace gqmm::conformance {

using namespace detail;

namespace {

constexpr Dtype compute_types[] = {Dtype::float32, Dtype::float16, Dtype::bfloat16};

struct Types {
  Dtype x;
  Dtype scales;
};

std::vector<Types> types_of(const Format* format) {
  std::vector<Types> types;
  for (const Dtype x : compute_types) {
    for (const Dtype scales : compute_types) {
      if (format == nullptr || format->has_biases || scales == compute_types[0]) {
        types.push_back({x, scales});
      }
    }
  }
  return types;
}

// One format and group size, or dense (no format).
struct Config {
  const Format* format;
  int group_size;
  bool transpose;

  [[nodiscard]] bool integer_path() const { return format != nullptr && format->integer.exists && transpose; }
};

std::string name_of_config(const ::testing::TestParamInfo<Config>& info) {
  const Config& c = info.param;
  if (c.format == nullptr) {
    return c.transpose ? "dense_k_contiguous" : "dense_n_contiguous";
  }
  return fmt::format("{}_{}bit_g{}_{}", gqmm::name_of(c.format->mode), c.format->bits, c.group_size,
                     c.transpose ? "transposed" : "not_transposed");
}

std::vector<Config> all_configs() {
  std::vector<Config> configs;
  for (const bool transpose : {true, false}) {
    for (const Format& format : formats()) {
      for (const int group_size : format.group_sizes) {
        configs.push_back({&format, group_size, transpose});
      }
    }
    configs.push_back({nullptr, 0, transpose});
  }
  return configs;
}

// Runs one problem on every instruction set in every precision that computes something different, in place and packed.
class Runner {
 public:
  /// False once so much has failed that more would only hide it.
  [[nodiscard]] bool worth_continuing() const { return failures_ < 6; }

  void run(const Spec& spec) {
    const std::string description = describe(spec);
    SCOPED_TRACE(description);
    set_crash_note(description.c_str());
    Operands operands = make_operands(spec);
    const Lowered lowered = lower(operands);
    const Oracle oracle(lowered.problem);
    for (const Precision precision : precisions_for(lowered.problem)) {
      operands.options.precision = precision;
      run_everywhere(spec, operands, oracle);
    }
    ++problems_;
  }

  [[nodiscard]] int problems() const { return problems_; }

 private:
  static std::vector<Precision> precisions_for(const Problem& problem) {
    if (quantized(problem.weights) == nullptr) {
      return {Precision::standard};
    }
    if (problem.y_dtype == Dtype::float32) {
      return {Precision::standard, Precision::fast};
    }
    return {Precision::standard, Precision::fast, Precision::float32};
  }

  void run_everywhere(const Spec& spec, const Operands& operands, const Oracle& oracle) {
    const Lowered lowered = lower(operands);
    const std::vector<std::string> sets = supported_instruction_sets();
    for (std::size_t i = 0; i < sets.size(); ++i) {
      SCOPED_TRACE(fmt::format("on {}, precision {}", sets[i], gqmm::name_of(operands.options.precision)));
      set_instruction_set(sets[i]);
      const array y = call_poisoned(operands);
      const Judgement judgement = judge(lowered.problem, oracle, y);
      const ::testing::AssertionResult kept = keeps(judgement);
      EXPECT_TRUE(kept);
      failures_ += kept ? 0 : 1;
      EXPECT_EQ(judgement.unbounded, 0) << "the problem is not an ordinary one: nothing was tested";
      // Packed weights in turn on each instruction set: the bits are the same, so that one comparison tells.
      if (spec.format != nullptr && (spec.seed + i) % sets.size() == 0) {
        const PackedWeights packed = pack(operands);
        EXPECT_TRUE(same_bits(y, call_poisoned(operands, &packed))) << "packed weights";
      }
    }
  }

  RestoreInstructionSet restore_;
  int failures_ = 0;
  int problems_ = 0;
};

// Pairs of each expert: over six problems in a row, every number from 0 to 20 once, and now and then one expert takes all.
std::vector<std::int64_t> pairs_of_experts(std::int64_t problem) {
  constexpr std::int64_t counts[6][4] = {{0, 1, 20, 5}, {2, 0, 19, 6},   {3, 18, 7, 8},
                                         {4, 17, 9, 0}, {16, 0, 10, 11}, {12, 13, 14, 15}};
  if (problem % 13 == 12) {
    return {0, 0, problem % 41, 0, 0, 0};
  }
  const auto& row = counts[problem % 6];
  return {row, row + 4};
}

Spec spec_for(const Config& config, const Types& types, std::int64_t problem, std::uint64_t seed) {
  Random random(seed);
  Spec spec;
  spec.format = config.format;
  spec.group_size = config.group_size;
  spec.x_dtype = types.x;
  spec.scale_dtype = types.scales;
  spec.transpose = config.transpose;
  spec.global_scale = config.format != nullptr && config.format->has_global_scale && problem % 2 == 1;
  spec.pairs = pairs_of_experts(problem);
  spec.sorted = random.chance(0.3);
  // Every layout, index form and distribution meets every shape sooner or later; the ordinary ones most often.
  spec.layout = random.chance(0.4) ? Layout::contiguous : random.one_of(all_layouts);
  spec.index_form = random.chance(0.5) ? IndexForm::both : random.one_of(all_index_forms);
  spec.values = random.chance(0.5) ? Values::normal : random.one_of(all_values);
  spec.M = random.chance(0.7) ? 1 : random.integer(2, 5);
  if (spec.M > 1) {
    for (std::int64_t& count : spec.pairs) {
      count = std::min<std::int64_t>(count, 6);
    }
  }
  spec.seed = seed;
  return spec;
}

// Extents of problem number `problem` of a sweep. Along the packed dimension: 1, 2, 3, … groups; along N when transposed (and
// along K when not): every number in turn, so that each remainder of each tile size occurs with each type.
void set_extents(const Config& config, std::int64_t problem, Spec& spec) {
  constexpr std::int64_t group_counts[] = {1, 2, 3, 1, 5, 2, 1, 4, 7};
  const std::int64_t free_extent = 1 + problem;
  if (config.format == nullptr) {
    spec.N = free_extent;
    spec.K = 1 + problem * 29 % 67;
    return;
  }
  const std::int64_t packed_extent = config.group_size * group_counts[problem % 9];
  spec.N = config.transpose ? free_extent : packed_extent;
  spec.K = config.transpose ? packed_extent : free_extent;
}

class ErrorBound : public ::testing::TestWithParam<Config> {
 protected:
  Runner runner;
};

TEST_P(ErrorBound, HoldsForEveryRemainderOfEveryTileInEveryType) {
  const Config& config = GetParam();
  const std::int64_t problems = config.transpose || config.format == nullptr ? 80 : 36;
  const std::int64_t step = quick() ? 13 : 1;
  std::int64_t start = 0;
  std::uint64_t seed = 1000;
  for (const Types& types : types_of(config.format)) {
    for (std::int64_t problem = start++ % step; problem < problems && runner.worth_continuing(); problem += step) {
      Spec spec = spec_for(config, types, problem, seed + static_cast<std::uint64_t>(problem));
      set_extents(config, problem, spec);
      runner.run(spec);
    }
    seed += 100;
  }
  EXPECT_GT(runner.problems(), 0);
}

TEST_P(ErrorBound, HoldsForLongSums) {
  const Config& config = GetParam();
  const std::int64_t group = std::max(1, config.group_size);
  std::uint64_t seed = 9000;
  for (const Types& types : types_of(config.format)) {
    // About 1,000, 3,000, 8,000: past every k-block; odd numbers of groups and one that fills blocks.
    for (const std::int64_t length : {1024 / group, 2944 / group | 1, 8192 / group | 1}) {
      if ((quick() && length * group > 2000) || !runner.worth_continuing()) {
        continue;
      }
      Spec spec = spec_for(config, types, static_cast<std::int64_t>(seed % 6), seed);
      spec.pairs = {1, 0, 3, 9};
      spec.M = 1;
      spec.N = config.transpose || config.format == nullptr ? 19 : config.group_size;
      spec.K = length * group;
      runner.run(spec);
      ++seed;
    }
  }
}

TEST_P(ErrorBound, HoldsForManyRowsAndColumns) {
  const Config& config = GetParam();
  const std::int64_t group = std::max(1, config.group_size);
  struct Extents {
    std::int64_t M;
    std::int64_t free;
    std::int64_t groups;
    std::vector<std::int64_t> pairs;
  };
  const Extents cases[] = {
      {1, 259, 3, {130, 0, 33}}, {70, 131, 2, {1, 2, 0}}, {1, 1030, 2, {0, 0, 0, 24, 1}}, {257, 17, 1, {0, 1}}};
  std::uint64_t seed = 20000;
  for (const Types& types : types_of(config.format)) {
    // Each type one case, so that the formats together see every type with every case; all of them would cost minutes.
    const Extents& extents = cases[(seed + static_cast<std::uint64_t>(config.format == nullptr ? 0 : config.format->bits)) % 4];
    if (!runner.worth_continuing() || (quick() && seed % 4 != 0)) {
      ++seed;
      continue;
    }
    Spec spec = spec_for(config, types, 0, seed);
    spec.M = extents.M;
    spec.pairs = extents.pairs;
    spec.index_form = IndexForm::both;
    const std::int64_t packed_extent = config.format == nullptr ? 100 : extents.groups * group;
    spec.N = config.transpose || config.format == nullptr ? extents.free : packed_extent;
    spec.K = config.transpose || config.format == nullptr ? packed_extent : extents.free;
    runner.run(spec);
    ++seed;
  }
}

TEST_P(ErrorBound, HoldsInEveryLayoutWithEveryIndexForm) {
  const Config& config = GetParam();
  const std::vector<Types> types = types_of(config.format);
  std::uint64_t seed = 30000;
  for (const Layout layout : all_layouts) {
    for (const IndexForm form : all_index_forms) {
      if (!runner.worth_continuing() || (quick() && seed % 7 != 0)) {
        ++seed;
        continue;
      }
      Spec spec = spec_for(config, types[seed % types.size()], static_cast<std::int64_t>(seed % 6), seed);
      set_extents(config, static_cast<std::int64_t>(seed % 37), spec);
      spec.layout = layout;
      spec.index_form = form;
      runner.run(spec);
      ++seed;
    }
  }
}

TEST_P(ErrorBound, HoldsWhenMostExpertsAreEmptyOrOneTakesAll) {
  const Config& config = GetParam();
  const std::vector<Types> types = types_of(config.format);
  std::vector<std::int64_t> scattered(70, 0);
  scattered[3] = 1;
  scattered[69] = 7;
  const std::vector<std::int64_t> distributions[] = {scattered, {0, 0, 31}, {1}, {0, 1, 0}};
  std::uint64_t seed = 40000;
  for (const std::vector<std::int64_t>& pairs : distributions) {
    Spec spec = spec_for(config, types[seed % types.size()], 0, seed);
    set_extents(config, 8, spec);
    spec.index_form = IndexForm::both;
    spec.pairs = pairs;
    runner.run(spec);
    ++seed;
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, ErrorBound, ::testing::ValuesIn(all_configs()), name_of_config);

// The oracle of these suites is not the library's reference_value, only faster: both must be the same function.
TEST(Oracle, AgreesWithTheReferenceBitForBit) {
  std::uint64_t seed = 50000;
  for (const Config& config : all_configs()) {
    Spec spec = spec_for(config, {Dtype::bfloat16, Dtype::float16}, 1, seed++);
    set_extents(config, 6, spec);
    spec.layout = Layout::wild;
    const Operands operands = make_operands(spec);
    const Lowered lowered = lower(operands);
    const Oracle oracle(lowered.problem);
    for (std::int64_t pair = 0; pair < static_cast<std::int64_t>(lowered.problem.rhs.size()); ++pair) {
      for (std::int64_t n = 0; n < spec.N; ++n) {
        const ReferenceValue expected = reference_value(lowered.problem, pair, spec.M - 1, n);
        const ReferenceValue& actual = oracle.at(pair, spec.M - 1, n);
        ASSERT_EQ(actual.y, expected.y) << describe(spec) << ", pair " << pair << ", n " << n;
        ASSERT_EQ(actual.plain, expected.plain) << describe(spec);
        ASSERT_NEAR(actual.magnitude, expected.magnitude, 1e-12 * expected.magnitude) << describe(spec);
      }
    }
  }
}

}  // namespace
}  // namespace gqmm::conformance
