#include "plan/routing.hpp"

#include "conformance/support/random.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

namespace gqmm {

using namespace detail;

namespace {

using conformance::Random;
using Experts = std::vector<std::int64_t>;

// What a routing must be, whatever produced it.
void expect_valid(const Routing& routing, const Experts& rhs) {
  ASSERT_EQ(routing.order.size(), rhs.size());
  Experts all(rhs.size());
  std::iota(all.begin(), all.end(), 0);
  Experts order = routing.order;
  std::sort(order.begin(), order.end());
  EXPECT_EQ(order, all) << "order is a permutation of the pairs";

  std::int64_t next = 0;
  std::int64_t last_expert = -1;
  for (const Segment& segment : routing.segments) {
    EXPECT_GT(segment.expert, last_expert) << "segments ascend by expert, one each";
    EXPECT_EQ(segment.first, next) << "segments leave no gap";
    EXPECT_GT(segment.last, segment.first) << "no segment is empty";
    for (std::int64_t i = segment.first; i < segment.last; ++i) {
      const std::int64_t pair = routing.order[static_cast<std::size_t>(i)];
      EXPECT_EQ(rhs[static_cast<std::size_t>(pair)], segment.expert);
      if (i > segment.first) {
        EXPECT_GT(pair, routing.order[static_cast<std::size_t>(i) - 1]) << "pairs of an expert keep their order";
      }
    }
    next = segment.last;
    last_expert = segment.expert;
  }
  EXPECT_EQ(next, static_cast<std::int64_t>(rhs.size()));
}

TEST(Routing, UnsortedPairsKeepTheirOrderWithinAnExpert) {
  const Experts rhs = {2, 0, 2, 1, 0, 2};
  const Routing routing = route(rhs, 3, false);
  expect_valid(routing, rhs);
  EXPECT_EQ(routing.order, (Experts{1, 4, 3, 0, 2, 5}));
}

TEST(Routing, SortedPairsStayWhereTheyAre) {
  const Experts rhs = {0, 0, 3, 3, 3, 7};
  const Routing routing = route(rhs, 8, true);
  expect_valid(routing, rhs);
  EXPECT_EQ(routing.order, (Experts{0, 1, 2, 3, 4, 5}));
}

TEST(Routing, ExpertsWithoutPairsHaveNoSegment) {
  const Experts rhs = {5, 1, 5};
  const Routing routing = route(rhs, 9, false);
  expect_valid(routing, rhs);
  ASSERT_EQ(routing.segments.size(), 2U);
  EXPECT_EQ(routing.segments[0].expert, 1);
  EXPECT_EQ(routing.segments[1].expert, 5);
}

TEST(Routing, NoPairsGiveNoSegments) {
  for (const bool sorted : {false, true}) {
    const Routing routing = route({}, 4, sorted);
    EXPECT_TRUE(routing.order.empty());
    EXPECT_TRUE(routing.segments.empty());
  }
}

TEST(Routing, OneExpertMayTakeEveryPair) {
  const Experts rhs(1000, 3);
  const Routing routing = route(rhs, 4, false);
  expect_valid(routing, rhs);
  EXPECT_EQ(routing.segments.size(), 1U);
}

TEST(Routing, ExpertsFarBeyondThePairsCostNoMemoryOfTheirs) {
  const std::int64_t experts = std::int64_t{1} << 60;  // an array of counts would not fit
  const Experts rhs = {experts - 1, 5, std::int64_t{1} << 40, 5, 0, experts - 1};
  const Routing routing = route(rhs, experts, false);
  expect_valid(routing, rhs);
  EXPECT_EQ(routing.order, (Experts{4, 1, 3, 2, 0, 5}));
}

TEST(Routing, IsAStableSortForAnyNumberOfPairsAndExperts) {
  Random random(1);
  for (int repetition = 0; repetition < 2000; ++repetition) {
    const std::int64_t experts = std::int64_t{1} << random.integer(0, 12);
    Experts rhs(static_cast<std::size_t>(random.integer(0, std::int64_t{1} << random.integer(0, 9))));
    std::generate(rhs.begin(), rhs.end(), [&] { return random.integer(0, experts - 1); });
    const Routing unsorted = route(rhs, experts, false);
    expect_valid(unsorted, rhs);

    std::sort(rhs.begin(), rhs.end());
    const Routing sorted = route(rhs, experts, true);
    expect_valid(sorted, rhs);
    EXPECT_EQ(route(rhs, experts, false).order, sorted.order) << "the promise changes nothing";
    if (HasFailure()) {
      FAIL() << "repetition " << repetition << ", " << rhs.size() << " pairs, " << experts << " experts";
    }
  }
}

}  // namespace
}  // namespace gqmm
