#include "cpu/call_context.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <vector>

namespace gqmm::cpu {
namespace {

constexpr double large = 1e12;  // multiply-adds: worth every thread

std::int64_t equal_cost(std::int64_t) { return 1; }

TEST(CallContext, EachPhaseBeginsAfterAllItemsOfThePhasesBefore) {
  CallContext call(large, 4);
  constexpr std::int64_t items = 200;
  std::atomic<std::int64_t> first{0};
  std::atomic<std::int64_t> second{0};
  std::atomic<std::int64_t> third{0};
  std::atomic<bool> in_order{true};
  call.add_phase(items, equal_cost, [&](std::int64_t, std::int64_t) { ++first; });
  call.add_phase(items / 2, equal_cost, [&](std::int64_t, std::int64_t) {
    in_order = in_order && first == items;
    ++second;
  });
  call.add_phase(items, equal_cost, [&](std::int64_t, std::int64_t) {
    in_order = in_order && second == items / 2;
    ++third;
  });
  call.run();
  EXPECT_TRUE(in_order);
  EXPECT_EQ(third, items);
}

TEST(CallContext, HasAsManyPhasesAsAnOperatorNeeds) {
  CallContext call(large, 2);
  std::vector<int> ran;
  for (int phase = 0; phase < 8; ++phase) {
    call.add_phase(1, equal_cost, [&ran, phase](std::int64_t, std::int64_t) { ran.push_back(phase); });
  }
  EXPECT_THROW(call.add_phase(1, equal_cost, [](std::int64_t, std::int64_t) {}), std::length_error);
  call.run();
  EXPECT_EQ(ran, (std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7}));
}

TEST(CallContext, BuffersOfOneCallDoNotOverlap) {
  CallContext call(0, 1);
  auto* bytes = call.take<std::uint8_t>(1000);
  auto* floats = call.take<float>(10, 100);
  std::fill_n(bytes, 1000, std::uint8_t{0xab});
  std::fill_n(floats, 1000, 1.5F);
  EXPECT_TRUE(std::all_of(bytes, bytes + 1000, [](std::uint8_t byte) { return byte == 0xab; }));
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(bytes) % 64, 0U);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(floats) % 64, 0U);
}

TEST(CallContext, ACallWithinACallHasMemoryOfItsOwn) {
  CallContext outer(0, 1);
  auto* outer_memory = outer.take<float>(256);
  std::fill_n(outer_memory, 256, 1.0F);
  {
    CallContext inner(0, 1);
    auto* inner_memory = inner.take<float>(256);
    ASSERT_NE(inner_memory, outer_memory);
    std::fill_n(inner_memory, 256, 2.0F);
  }
  EXPECT_TRUE(std::all_of(outer_memory, outer_memory + 256, [](float value) { return value == 1.0F; }));
}

TEST(CallContext, TheNextCallOfAThreadFindsTheMemoryOfTheLastOne) {
  const auto memory_of_a_call = [] {
    CallContext call(0, 1);
    return reinterpret_cast<std::uintptr_t>(call.take<float>(4096));
  };
  const std::uintptr_t first = memory_of_a_call();
  EXPECT_EQ(memory_of_a_call(), first);
}

TEST(ThreadCached, TwoOwnersOnOneThreadNeverShare) {
  const ThreadCached<std::vector<int>> first;
  const ThreadCached<std::vector<int>> second;
  const ThreadCached<std::vector<int>> third;
  EXPECT_NE(&*first, &*second);
  EXPECT_NE(&*second, &*third);
  EXPECT_NE(&*first, &*third);
}

TEST(ThreadCached, AThreadKeepsWhatItsOwnersHad) {
  {
    const ThreadCached<std::vector<long>> owner;
    owner->assign(3, 42);
  }
  const ThreadCached<std::vector<long>> next;
  EXPECT_EQ(*next, (std::vector<long>{42, 42, 42}));
}

}  // namespace
}  // namespace gqmm::cpu
