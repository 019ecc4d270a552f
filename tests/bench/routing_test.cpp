#include "cases/routing.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <stdexcept>

namespace gqmm::bench {
namespace {

double sum(const std::vector<double>& values) { return std::accumulate(values.begin(), values.end(), 0.0); }

TEST(LearnedRouting, OfAsManyExpertsAsTheModelHasEachIsAsPopularAsCounted) {
  const auto counts = parse_choice_counts("# a comment\n10 0 20 10\n\n0 0 40 0\n");
  ASSERT_EQ(counts.size(), 2U);
  const auto shares = popularity(counts, 4, 1);
  // By rank: (1/2 + 1) / 2, (1/4 + 0) / 2, (1/4 + 0) / 2, 0.
  EXPECT_EQ(shares, (std::vector<double>{0.75, 0.125, 0.125, 0}));
}

TEST(LearnedRouting, OtherNumbersOfExpertsShareTheCurveAndNoneIsChosenTwice) {
  for (const auto& [experts, top] : {std::pair{8, 2}, {32, 4}, {128, 8}, {256, 8}, {16, 15}, {4, 4}, {1, 1}}) {
    const auto shares = learned_popularity(experts, top);
    ASSERT_EQ(shares.size(), static_cast<std::size_t>(experts));
    EXPECT_NEAR(sum(shares), top, 1e-9) << experts << " experts";
    EXPECT_TRUE(std::is_sorted(shares.begin(), shares.end(), [](double a, double b) { return a > b + 1e-12; }));
    EXPECT_LE(shares.front(), 1);
    EXPECT_GE(shares.back(), 0);
  }
}

TEST(LearnedRouting, TheModelsRoutersPreferSomeExperts) {
  const auto shares = learned_popularity(32, 4);
  EXPECT_GT(shares.front(), 2 * 4.0 / 32);
  EXPECT_LT(shares.back(), 0.1 * 4.0 / 32);
  const auto finer = learned_popularity(128, 8);
  EXPECT_NEAR(sum({finer.begin(), finer.begin() + 4}) / 8, shares.front() / 4, 1e-9) << "the curve's first point";
}

TEST(LearnedRouting, ATableThatIsNotOneIsAnError) {
  for (const char* text : {"", "# nothing\n", "1 2\n1 2 3\n", "1 two\n", "1 -2\n", "0 0\n"}) {
    EXPECT_THROW(parse_choice_counts(text), std::runtime_error) << '"' << text << '"';
  }
}

}  // namespace
}  // namespace gqmm::bench
