#include "threads/work_shares.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

namespace gqmm::threads {
namespace {

constexpr std::int64_t one_each(std::int64_t /*position*/) { return 1; }
constexpr bool always() { return true; }

struct Turn {
  std::int64_t position;
  std::int64_t next;
  bool operator==(const Turn&) const = default;
};

std::vector<Turn> drained_by(WorkShares& shares, int own) {
  std::vector<Turn> turns;
  shares.drain(own, [&](std::int64_t position, std::int64_t next) { turns.push_back({position, next}); }, always);
  return turns;
}

TEST(WorkShares, AThreadTakesItsOwnShareInOrderThenTheOthersFromTheBack) {
  WorkShares shares(6, 2, one_each);
  const auto none = WorkShares::none;
  EXPECT_EQ(drained_by(shares, 0), (std::vector<Turn>{{0, 1}, {1, 2}, {2, none}, {5, 4}, {4, 3}, {3, none}}));
  EXPECT_TRUE(drained_by(shares, 1).empty());
}

TEST(WorkShares, TheFullestShareIsHelpedFirst) {
  WorkShares shares(9, 3, [](std::int64_t position) { return position < 2 ? 7 : 1; });  // 0 | 1 | 2 … 8
  std::vector<std::int64_t> positions;
  shares.drain(0, [&](std::int64_t position, std::int64_t) { positions.push_back(position); }, always);
  EXPECT_EQ(positions, (std::vector<std::int64_t>{0, 8, 7, 6, 5, 4, 3, 1, 2}));
}

TEST(WorkShares, AShareMayBeEmptyAndThereMayBeNothing) {
  WorkShares one(1, 4, one_each);
  EXPECT_EQ(drained_by(one, 3).size(), 1U);
  WorkShares nothing(0, 2, one_each);
  EXPECT_TRUE(drained_by(nothing, 0).empty());
}

TEST(WorkShares, AThreadThatMayNotGoOnLeavesTheRestToOthers) {
  WorkShares shares(6, 2, one_each);
  std::vector<std::int64_t> positions;
  const auto take = [&](std::int64_t position, std::int64_t) { positions.push_back(position); };
  shares.drain(0, take, [&] { return positions.size() < 4; });  // in the middle of the other's share
  EXPECT_EQ(positions, (std::vector<std::int64_t>{0, 1, 2, 5}));
  shares.drain(1, take, always);
  EXPECT_EQ(positions, (std::vector<std::int64_t>{0, 1, 2, 5, 3, 4}));
}

TEST(WorkShares, CostsDecideWhereSharesAreCut) {
  WorkShares shares(5, 2, [](std::int64_t position) { return position == 4 ? 4 : 1; });
  EXPECT_EQ(drained_by(shares, 1).front().position, 4);
}

TEST(WorkShares, ThreadsThatStealGetEveryPositionOnce) {
  constexpr std::int64_t count = 20000;
  constexpr int threads = 4;
  std::vector<std::atomic<int>> taken(count);
  // All the cost lies in the first share, so that the other threads steal from the start.
  WorkShares shares(count, threads, [](std::int64_t position) { return position == count - 1 ? 8 * count : 1; });
  std::vector<std::thread> team;
  for (int thread = 0; thread < threads; ++thread) {
    team.emplace_back([&, thread] {
      shares.drain(thread, [&](std::int64_t position, std::int64_t) { ++taken[static_cast<std::size_t>(position)]; }, always);
    });
  }
  for (std::thread& thread : team) {
    thread.join();
  }
  for (std::int64_t position = 0; position < count; ++position) {
    EXPECT_EQ(taken[static_cast<std::size_t>(position)], 1) << "position " << position;
  }
}

TEST(WorkShares, RefusesMorePositionsThanItCanCount) {
  try {
    const WorkShares shares(std::int64_t{1} << 31, 1, one_each);
    FAIL() << "no error";
  } catch (const std::length_error& error) {
    EXPECT_STREQ(
        error.what(),
        "[gqmm] the call has 2147483648 items of work, and 2147483647 is the limit; split it into calls with fewer rows");
  }
}

}  // namespace
}  // namespace gqmm::threads
