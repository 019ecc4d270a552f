#include "plan.hpp"

#include "io/error.hpp"
#include "memory.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <stdexcept>

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

TEST(Plan, EverySuiteHasDifferentCases) {
  for (const char* name : {"report", "formats", "shapes"}) {
    const auto cases = suite(name, "scalar", 2);
    std::set<std::string> names;
    for (const PlannedCase& planned : cases) {
      EXPECT_TRUE(names.insert(planned.settings.name()).second) << name << ": " << planned.settings.name();
    }
    EXPECT_GT(names.size(), 10U);
  }
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
  EXPECT_NE(message_of([] { routing_from_name("all"); }).find("balanced"), std::string::npos);
  EXPECT_NE(message_of([] { float_type_from_name("float64"); }).find("bfloat16"), std::string::npos);
  EXPECT_NE(message_of([] { suite("all", "scalar", 1); }).find("report"), std::string::npos);
  EXPECT_NE(message_of([] { pages_from_name("1G"); }).find("huge"), std::string::npos);
}

}  // namespace
}  // namespace gqmm::bench
