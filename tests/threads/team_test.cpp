// Tests of calls on the process's team: their threads, phases, errors and end.
#include "threads/team.hpp"
#include "float_settings.hpp"
#include "threads/process_threads.hpp"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <iterator>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace gqmm::threads {
namespace {

using std::chrono::milliseconds;

constexpr std::int64_t one_each(std::int64_t /*item*/) { return 1; }

/// Waits until `done()` is true. Returns false after ten seconds.
template <class Done>
bool eventually(Done done) {
  for (int i = 0; i < 1000; ++i) {
    if (done()) {
      return true;
    }
    std::this_thread::sleep_for(milliseconds(10));
  }
  return false;
}

/// Runs `work` on each of `count` items. Returns the number of threads that the call was planned for.
int run_items(int wanted, std::int64_t count, const std::function<void(std::int64_t item)>& work) {
  TeamCall call(wanted);
  Phase phase(count, call.threads(), one_each, [&](std::int64_t item, std::int64_t) { work(item); });
  call.run(std::array{&phase});
  return call.threads();
}

TEST(Team, RunsEveryItemOfEachStepOnceAndTheStepsInTheirOrder) {
  constexpr std::int64_t count = 1000;
  for (const int wanted : {1, 2, 3, 8}) {
    std::vector<std::atomic<int>> first(count);
    std::vector<std::atomic<int>> second(count);
    std::atomic<std::int64_t> finished{0};
    std::atomic<int> too_early{0};
    TeamCall call(wanted);
    EXPECT_EQ(call.threads(), wanted);
    Phase one(count, call.threads(), one_each, [&](std::int64_t item, std::int64_t) {
      ++first[static_cast<std::size_t>(item)];
      ++finished;
    });
    Phase nothing(0, call.threads(), one_each, [](std::int64_t, std::int64_t) { FAIL(); });
    Phase two(count, call.threads(), one_each, [&](std::int64_t item, std::int64_t) {
      too_early += finished == count ? 0 : 1;
      ++second[static_cast<std::size_t>(item)];
    });
    call.run(std::array{&one, &nothing, &two});
    EXPECT_EQ(too_early, 0);
    for (std::size_t item = 0; item < count; ++item) {
      ASSERT_EQ(first[item], 1) << item;
      ASSERT_EQ(second[item], 1) << item;
    }
  }
}

TEST(Team, HasAsManyThreadsAsTheLargestCallWanted) {
  std::mutex mutex;
  std::set<std::thread::id> seen;
  const auto note = [&](std::int64_t) {
    const std::lock_guard lock(mutex);
    seen.insert(std::this_thread::get_id());
  };
  run_items(8, 1, [](std::int64_t) {});
  const int threads = process_threads();
  for (int i = 0; i < 200; ++i) {
    run_items(3, 64, note);
  }
  EXPECT_EQ(process_threads(), threads) << "smaller calls start no threads";
  EXPECT_LE(seen.size(), 3U) << "and use no more than they want";
}

TEST(Team, IsSharedByNoTwoCallsAtATime) {
  std::atomic<bool> inside{false};
  std::atomic<bool> finish{false};
  std::thread other([&] {
    run_items(2, 2, [&](std::int64_t) {
      inside = true;
      EXPECT_TRUE(eventually([&] { return finish.load(); }));
    });
  });
  ASSERT_TRUE(eventually([&] { return inside.load(); }));
  EXPECT_EQ(run_items(2, 10, [](std::int64_t) {}), 1) << "a second caller computes alone";
  finish = true;
  other.join();
  EXPECT_EQ(run_items(2, 10, [](std::int64_t) {}), 2);
}

TEST(Team, OfACallInsideACallIsTheCallerAlone) {
  std::atomic<int> most{0};
  std::atomic<int> items{0};
  run_items(3, 12, [&](std::int64_t) {
    const int inner = run_items(3, 5, [&](std::int64_t) { ++items; });
    int known = most.load();
    while (inner > known && !most.compare_exchange_weak(known, inner)) {
    }
  });
  EXPECT_EQ(most, 1);
  EXPECT_EQ(items, 60);
}

TEST(Team, ThrowsTheErrorOfAnItemOnceNothingRunsAnyMore) {
  for (const int wanted : {1, 2, 4}) {
    for (int turn = 0; turn < 20; ++turn) {
      std::atomic<int> running{0};
      std::atomic<int> begun{0};
      try {
        run_items(wanted, 1000, [&](std::int64_t item) {
          ++running;
          ++begun;
          if (item % 7 == 3) {
            --running;
            throw std::runtime_error("item " + std::to_string(item));
          }
          std::this_thread::sleep_for(std::chrono::microseconds(50));
          --running;
        });
        FAIL() << "no error";
      } catch (const std::runtime_error& error) {
        EXPECT_EQ(std::string(error.what()).substr(0, 5), "item ");
      }
      EXPECT_EQ(running, 0);
      EXPECT_LT(begun, 1000) << "no further item begins";
    }
    EXPECT_EQ(run_items(wanted, 10, [](std::int64_t) {}), wanted) << "the team is as before";
  }
}

TEST(Team, BeginsNoStepAfterOneThatFailed) {
  TeamCall call(3);
  std::atomic<int> second{0};
  Phase one(30, call.threads(), one_each, [](std::int64_t, std::int64_t) { throw std::logic_error("first"); });
  Phase two(30, call.threads(), one_each, [&](std::int64_t, std::int64_t) { ++second; });
  EXPECT_THROW(call.run(std::array{&one, &two}), std::logic_error);
  EXPECT_EQ(second, 0);
}

TEST(Team, GivesEveryThreadTheDefaultFloatEnvironmentAndTheCallerItsOwnBack) {
  for (const int wanted : {1, 4}) {
    const CallersSetting flush(flush_to_zero);
    std::atomic<int> flushed{0};
    run_items(wanted, 400, [&](std::int64_t) {
      volatile float tiny = 0x1p-126F;
      flushed += tiny * 0.5F == 0 ? 1 : 0;
    });
    EXPECT_EQ(flushed, 0);
    volatile float tiny = 0x1p-126F;
    EXPECT_EQ(tiny * 0.5F, 0) << "the caller's own setting";
  }
}

TEST(Team, ServesManyCallersAtOnce) {
  std::atomic<std::int64_t> done{0};
  std::vector<std::thread> callers;
  constexpr int count = 6;
  constexpr int calls = 300;
  constexpr std::int64_t items = 40;
  for (int caller = 0; caller < count; ++caller) {
    callers.emplace_back([&, caller] {
      for (int i = 0; i < calls; ++i) {
        run_items(1 + (i + caller) % 4, items, [&](std::int64_t) { ++done; });
      }
    });
  }
  for (std::thread& caller : callers) {
    caller.join();
  }
  EXPECT_EQ(done, count * calls * items);
}

// Workers that see more callers than processors leave a call between two items, and come back when the others have ended.
TEST(Team, LeavesProcessorsToOtherCallersAndTakesThemBack) {
  std::atomic<bool> finish{false};
  std::atomic<bool> crowd{false};
  std::atomic<int> crowd_inside{0};
  std::mutex mutex;
  std::set<std::thread::id> in_crowd;
  std::set<std::thread::id> after;
  std::atomic<bool> measure_crowd{false};
  std::atomic<bool> measure_after{false};
  const auto processors = static_cast<int>(std::max(2U, std::thread::hardware_concurrency()));
  std::thread leader([&] {
    run_items(2, 1'000'000, [&](std::int64_t) {
      if (finish) {
        return;
      }
      std::this_thread::sleep_for(milliseconds(1));
      const std::lock_guard lock(mutex);
      if (measure_crowd) {
        in_crowd.insert(std::this_thread::get_id());
      } else if (measure_after) {
        after.insert(std::this_thread::get_id());
      }
    });
  });
  std::this_thread::sleep_for(milliseconds(50));
  crowd = true;
  std::vector<std::thread> others;
  for (int i = 0; i < processors; ++i) {
    others.emplace_back([&] {
      run_items(2, 1, [&](std::int64_t) {
        ++crowd_inside;
        EXPECT_TRUE(eventually([&] { return !crowd.load(); }));
      });
    });
  }
  EXPECT_TRUE(eventually([&] { return crowd_inside == processors; }));
  std::this_thread::sleep_for(milliseconds(100));
  measure_crowd = true;
  std::this_thread::sleep_for(milliseconds(100));
  measure_crowd = false;
  crowd = false;
  for (std::thread& other : others) {
    other.join();
  }
  measure_after = true;
  EXPECT_TRUE(eventually([&] {
    const std::lock_guard lock(mutex);
    return after.size() == 2;
  })) << "the worker comes back";
  finish = true;
  leader.join();
  EXPECT_EQ(in_crowd.size(), 1U) << "the leader alone, while as many callers as processors computed";
}

}  // namespace
}  // namespace gqmm::threads
