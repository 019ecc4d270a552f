#include "api/api_test_support.hpp"

#include <gtest/gtest.h>

#include <string>

namespace gqmm::test {
namespace {

class Explain : public testing::Test {
 protected:
  array x = Generator(1).normal({6, 1, 64});
  Weights weights = affine_weights(2, {4}, 32, 64);
  GatherQmmOptions options = {.lhs_indices = int64s({3}, {0, 4, 5}), .rhs_indices = int64s({3}, {2, 0, 2})};
};

TEST_F(Explain, TellsWhatEachExpertThatIsHitWillDo) {
  options.stream.threads = 1;
  const std::string text = explain(x, weights, options);
  EXPECT_NE(text.find("3 pairs of M = 1, N = 32, K = 64, 4 experts"), std::string::npos) << text;
  EXPECT_NE(text.find(active_instruction_set()), std::string::npos) << text;
  EXPECT_NE(text.find("1 thread, 3 slices"), std::string::npos) << text;
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 5) << "two lines about the call, a head, two experts:\n" << text;
}

TEST_F(Explain, TellsTheSameOfPackedWeights) { EXPECT_EQ(explain(x, pack(weights), options), explain(x, weights, options)); }

TEST_F(Explain, RefusesWhatTheProductRefuses) {
  options.rhs_indices = int64s({3}, {2, 4, 2});
  std::string refused;
  try {
    (void)gather_qmm(x, weights, options);
  } catch (const std::invalid_argument& error) {
    refused = error.what();
  }
  ASSERT_FALSE(refused.empty());
  expect_error(refused, [&] { return explain(x, weights, options); });
}

}  // namespace
}  // namespace gqmm::test
