#include "cases/plan.hpp"

#include "io/error.hpp"
#include "measure/memory.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <stdexcept>
#include <tuple>
#include <utility>

namespace gqmm::bench {
namespace {

TEST(Plan, ACheckpointsExpertLayersAreEachMeasuredOnce) {
  const auto layers = layers_of_checkpoint(GQMM_TEST_MODEL, 0);
  ASSERT_EQ(layers.size(), 2U);  // three layers of gate, up and down: gate and up are the same work
  const auto down =
      std::find_if(layers.begin(), layers.end(), [](const CheckpointLayer& layer) { return layer.shape.row_per_pair; });
  const auto gate =
      std::find_if(layers.begin(), layers.end(), [](const CheckpointLayer& layer) { return !layer.shape.row_per_pair; });
  ASSERT_NE(down, layers.end());
  ASSERT_NE(gate, layers.end());
  EXPECT_EQ(gate->shape.experts, 32);
  EXPECT_EQ(gate->shape.N, 128);
  EXPECT_EQ(gate->shape.K, 256);
  EXPECT_EQ(gate->shape.top, 4);
  EXPECT_EQ(gate->bits, 4);
  EXPECT_EQ(gate->group_size, 64);
  EXPECT_EQ(down->shape.name, "shakespeare-moe-affine4/down_proj");
  EXPECT_EQ(down->shape.N, 256);
  EXPECT_EQ(down->shape.K, 128);
  EXPECT_EQ(layers_of_checkpoint(GQMM_TEST_MODEL, 2).front().shape.top, 2);
}

TEST(Plan, AMissingCheckpointIsAnError) { EXPECT_THROW(layers_of_checkpoint("no/such/model", 1), io::FileError); }

std::vector<PlannedCase> suite_on_two_cores(std::string_view name) { return suite(name, {{"scalar"}, {}, 2}); }

TEST(Plan, EverySuiteHasDifferentCases) {
  for (const std::string_view name : suite_names()) {
    const auto cases = suite_on_two_cores(name);
    std::set<std::string> names;
    for (const PlannedCase& planned : cases) {
      EXPECT_TRUE(names.insert(planned.settings.name()).second) << name << ": " << planned.settings.name();
      EXPECT_EQ(planned.settings.isa, "scalar");
    }
    EXPECT_GT(names.size(), 10U);
  }
}

TEST(Plan, ASuiteRunsOnTheThreadsAndInstructionSetsThatAreGiven) {
  const auto cases = suite("formats", {{"scalar", "avx2"}, {1, 3}, 8});
  EXPECT_EQ(cases.size(), 4 * suite("formats", {{"scalar"}, {1}, 8}).size());
  EXPECT_EQ(only(cases, {"3 threads", "avx2"}).size(), cases.size() / 4);
}

TEST(Plan, TheFormatsSuiteHasAProductThatIsNotTransposed) {
  const auto cases = only(suite_on_two_cores("formats"), {"affine 4-bit g64 not transposed"});
  ASSERT_EQ(cases.size(), 2U);  // prefill and decode
  for (const PlannedCase& planned : cases) {
    EXPECT_FALSE(planned.settings.transpose);
  }
}

TEST(Plan, TheLimitsSuiteHasEveryNumberOfRowsInEveryPrecisionPackedAndInPlace) {
  std::set<std::tuple<std::int64_t, int, bool>> cells;
  for (const PlannedCase& planned : suite_on_two_cores("limits")) {
    const Case& settings = planned.settings;
    EXPECT_EQ(settings.routing, ExpertChoice::balanced);
    cells.emplace(settings.pairs() / std::min(settings.pairs(), settings.shape.experts), settings.slices(), settings.packed);
  }
  for (const std::int64_t rows : {1, 2, 4, 8, 32, 128}) {
    for (const int slices : {1, 2, 3}) {
      for (const bool packed : {false, true}) {
        EXPECT_TRUE(cells.contains({rows, slices, packed})) << rows << " rows, " << slices << " slices, packed: " << packed;
      }
    }
  }
}

TEST(Plan, TheShapesSuiteHasEveryShapeInEveryRouting) {
  std::set<std::tuple<std::string, std::int64_t, ExpertChoice>> cells;
  for (const PlannedCase& planned : suite_on_two_cores("shapes")) {
    cells.emplace(planned.settings.shape.name, planned.settings.tokens, planned.settings.routing);
  }
  EXPECT_EQ(cells.size(), known_shapes().size() * 6 * 4);
}

TEST(Plan, TheRoutingSuiteHasEveryRoutingOnOneThreadAndOnAll) {
  std::set<std::tuple<int, int, std::int64_t, ExpertChoice>> cells;
  for (const PlannedCase& planned : suite_on_two_cores("routing")) {
    cells.emplace(planned.settings.threads, planned.settings.slices(), planned.settings.tokens, planned.settings.routing);
  }
  EXPECT_EQ(cells.size(), 2U * 2 * 2 * 4);
}

TEST(Plan, TheExpertsSuiteReadsTheSameBytesOfManyExpertsAndOfFew) {
  std::set<std::pair<std::int64_t, double>> work;
  std::set<std::int64_t> experts;
  for (const PlannedCase& planned : suite_on_two_cores("experts")) {
    work.emplace(planned.settings.pairs(), planned.settings.bytes_per_expert());
    experts.insert(planned.settings.shape.experts);
  }
  EXPECT_EQ(experts, (std::set<std::int64_t>{128, 16384}));
  EXPECT_EQ(work.size(), 1U);
}

TEST(Plan, TheMoeSuiteMeasuresOthersBesideEveryLayerAndPrecision) {
  std::set<std::string> layers;
  std::set<int> slices;
  for (const PlannedCase& planned : suite_on_two_cores("moe")) {
    EXPECT_TRUE(planned.settings.shape.whole);
    if (!planned.peers.empty()) {
      EXPECT_EQ(planned.peers.front(), "gqmm");
      layers.insert(planned.settings.shape.name);
      slices.insert(planned.settings.slices());
    }
  }
  EXPECT_EQ(layers, (std::set<std::string>{"deepseek-v3/layer", "gpt-oss-20b/layer", "qwen3-30b-a3b/layer", "small-layer"}));
  EXPECT_EQ(slices, (std::set<int>{1, 2, 3}));
}

TEST(Plan, UnknownNamesAreErrorsThatListTheKnownOnes) {
  const auto message_of = [](auto&& call) -> std::string {
    try {
      call();
    } catch (const std::invalid_argument& error) {
      return error.what();
    }
    return "no error";
  };
  EXPECT_NE(message_of([] { shape_from_name("qwen"); }).find("qwen3-30b-a3b/gate"), std::string::npos);
  EXPECT_NE(message_of([] { expert_choice_from_name("all"); }).find("balanced"), std::string::npos);
  EXPECT_NE(message_of([] { float_type_from_name("float64"); }).find("bfloat16"), std::string::npos);
  EXPECT_NE(message_of([] { suite_on_two_cores("all"); }).find("report"), std::string::npos);
  EXPECT_NE(message_of([] { only(suite_on_two_cores("small"), {"T=7", "x"}); }).find("'T=7' and 'x'"), std::string::npos);
  EXPECT_NE(message_of([] { pages_from_name("1G"); }).find("huge"), std::string::npos);
}

}  // namespace
}  // namespace gqmm::bench
