#include "measure/rotation.hpp"

#include "cases/routing.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <utility>
#include <vector>

namespace gqmm::bench {
namespace {

Case case_of(std::int64_t experts, std::int64_t top, std::int64_t tokens, ExpertChoice routing) {
  Case settings;
  settings.shape = {"test", experts, 64, 64, top, false};
  settings.tokens = tokens;
  settings.routing = routing;
  return settings;
}

std::vector<std::uint32_t> buffer_for(const Case& settings) {
  return std::vector<std::uint32_t>(static_cast<std::size_t>(settings.pairs()));
}

constexpr int mean_calls = 2000;

/// Experts that a call hits, the mean of mean_calls.
double mean_hit(const Case& settings) {
  Rotation rotation(settings, 2);
  auto experts = buffer_for(settings);
  double sum = 0;
  for (int call = 0; call < mean_calls; ++call) {
    sum += static_cast<double>(rotation.next(experts).experts);
  }
  return sum / mean_calls;
}

TEST(Rotation, BalancedRoutingGivesEveryExpertTheSameNumberOfRows) {
  for (const std::int64_t tokens : {16, 17, 512}) {
    const Case settings = case_of(10, 4, tokens, ExpertChoice::balanced);
    Rotation rotation(settings, 2);
    auto experts = buffer_for(settings);
    const Rotation::Hit hit = rotation.next(experts);
    EXPECT_EQ(hit.experts, 10);
    std::map<std::uint32_t, std::int64_t> rows;
    for (const std::uint32_t expert : experts) {
      ++rows[expert];
    }
    for (const auto& [expert, count] : rows) {
      EXPECT_LE(std::abs(count - settings.pairs() / 10), 1) << "expert " << expert << ", T = " << tokens;
    }
  }
}

TEST(Rotation, NoTokenHasAnExpertTwice) {
  for (const ExpertChoice routing : {ExpertChoice::uniform, ExpertChoice::balanced, ExpertChoice::learned}) {
    const Case settings = case_of(10, 4, 300, routing);
    Rotation rotation(settings, 3);
    auto experts = buffer_for(settings);
    for (int call = 0; call < 5; ++call) {
      rotation.next(experts);
      for (std::size_t token = 0; token < 300; ++token) {
        const auto first = experts.begin() + static_cast<std::ptrdiff_t>(4 * token);
        const std::set<std::uint32_t> distinct(first, first + 4);
        ASSERT_EQ(distinct.size(), 4U) << name_of(routing) << ", token " << token;
        ASSERT_LT(*distinct.rbegin(), 10U);
      }
    }
  }
}

TEST(Rotation, TheNumberOfExpertsHitIsCounted) {
  for (const ExpertChoice routing :
       {ExpertChoice::uniform, ExpertChoice::balanced, ExpertChoice::learned, ExpertChoice::half, ExpertChoice::one}) {
    for (const std::int64_t tokens : {1, 3, 8, 40}) {
      const Case settings = case_of(24, 5, tokens, routing);
      Rotation rotation(settings, 2);
      auto experts = buffer_for(settings);
      for (int call = 0; call < 20; ++call) {
        const Rotation::Hit hit = rotation.next(experts);
        EXPECT_EQ(static_cast<std::size_t>(hit.experts), std::set<std::uint32_t>(experts.begin(), experts.end()).size());
      }
    }
  }
}

TEST(Rotation, AnExpertIsHitAgainOnlyAfterTheOthersOfItsCopy) {
  for (const ExpertChoice routing :
       {ExpertChoice::uniform, ExpertChoice::balanced, ExpertChoice::learned, ExpertChoice::half, ExpertChoice::one}) {
    const Case settings = case_of(16, 2, 2, routing);
    Rotation rotation(settings, 2);
    auto experts = buffer_for(settings);
    int copy = 0;
    std::set<std::uint32_t> seen;
    for (int call = 0; call < 100; ++call) {
      const Rotation::Hit hit = rotation.next(experts);
      if (hit.copy != copy) {
        EXPECT_GT(seen.size() + static_cast<std::size_t>(hit.experts), 16U) << "left a copy early";
        copy = hit.copy;
        seen.clear();
      }
      for (const std::uint32_t expert : std::set<std::uint32_t>(experts.begin(), experts.end())) {
        EXPECT_TRUE(seen.insert(expert).second) << name_of(routing) << ", call " << call << ", expert " << expert;
      }
    }
  }
}

TEST(Rotation, AllCopiesOfTheWeightsAreUsed) {
  const Case settings = case_of(4, 4, 1, ExpertChoice::uniform);
  Rotation rotation(settings, 3);
  auto experts = buffer_for(settings);
  std::set<int> copies;
  for (int call = 0; call < 6; ++call) {
    copies.insert(rotation.next(experts).copy);
  }
  EXPECT_EQ(copies, (std::set<int>{0, 1, 2}));
}

// Of E experts, T tokens with t each leave (1 − t/E)^T of them without a row.
TEST(Rotation, UniformRoutingHitsAsManyExpertsAsIndependentTokensWould) {
  const Case settings = case_of(128, 8, 8, ExpertChoice::uniform);
  const double expected = 128 * (1 - std::pow(1 - 8.0 / 128, 8));
  // The number hit varies by less than it would if experts were independent: variance < 128 · p · (1 − p) < 31. Five standard
  // errors of the mean.
  EXPECT_NEAR(mean_hit(settings), expected, 5 * std::sqrt(31.0 / mean_calls));
}

TEST(Rotation, HalfRoutingGivesOneExpertHalfOfTheRowsAndATokenNoOtherTwice) {
  for (const auto& [experts, top] : {std::pair{10, 4}, {10, 5}, {5, 5}, {3, 1}, {2, 2}, {1, 1}}) {
    const Case settings = case_of(experts, top, 301, ExpertChoice::half);
    Rotation rotation(settings, 2);
    auto drawn = buffer_for(settings);
    for (int call = 0; call < 3; ++call) {
      rotation.next(drawn);
      const std::uint32_t popular = drawn[0];
      const auto rows = std::count(drawn.begin(), drawn.end(), popular);
      EXPECT_EQ(rows, experts == 1 ? settings.pairs() : (settings.pairs() + 1) / 2) << experts << " experts, top " << top;
      for (auto token = drawn.begin(); token != drawn.end(); token += top) {
        std::set<std::uint32_t> distinct(token, token + top);
        distinct.erase(popular);
        ASSERT_EQ(static_cast<std::ptrdiff_t>(distinct.size()), top - std::count(token, token + top, popular));
      }
    }
  }
}

// The popular expert, and of the E − 1 others all but (1 − t/(E − 1))^T, where T tokens have t of them each.
TEST(Rotation, HalfRoutingHitsAsManyOfTheOthersAsIndependentTokensWould) {
  const Case settings = case_of(128, 8, 8, ExpertChoice::half);
  const double missed = std::pow(1 - 4.0 / 127, 8);
  // As above, the variance is below that of independent experts.
  EXPECT_NEAR(mean_hit(settings), 1 + 127 * (1 - missed), 5 * std::sqrt(127 * missed * (1 - missed) / mean_calls));
}

// With the shares p of learned_popularity, T tokens leave Σ (1 − p)^T of the experts without a row.
TEST(Rotation, LearnedRoutingHitsAsManyExpertsAsItsPopularityLeavesARow) {
  const Case settings = case_of(128, 8, 32, ExpertChoice::learned);
  double expected = 0;
  double variance = 0;  // if experts were independent: they vary less
  for (const double share : learned_popularity(128, 8)) {
    const double missed = std::pow(1 - share, 32);
    expected += 1 - missed;
    variance += missed * (1 - missed);
  }
  EXPECT_NEAR(mean_hit(settings), expected, 5 * std::sqrt(variance / mean_calls));
  const double uniform = 128 * (1 - std::pow(1 - 8.0 / 128, 32));
  EXPECT_LT(expected, 0.95 * uniform) << "no different from uniform routing";
}

}  // namespace
}  // namespace gqmm::bench
