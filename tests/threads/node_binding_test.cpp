// Tests of calls that are bound to a memory node. The two nodes of these tests share out the processors of this machine, whatever
// nodes it has.
#include "threads/node_binding.hpp"
#include "arrays/memory.hpp"
#include "threads/limits.hpp"
#include "threads/node_files.hpp"
#include "threads/team.hpp"

#include <gqmm/stream.hpp>
#include <gqmm/system.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <iterator>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

namespace gqmm::threads {
namespace {

/// Runs `work` on each of `count` items. Returns the number of threads that the call was planned for.
int run_items(int wanted, std::int64_t count, const std::function<void(std::int64_t item)>& work) {
  TeamCall call(wanted);
  Phase phase(count, call.threads(), [](std::int64_t) { return 1; }, [&](std::int64_t item, std::int64_t) { work(item); });
  call.run(std::array{&phase});
  return call.threads();
}

/// Runs a call of `threads` threads, each of which begins an item. Returns the affinity masks of these threads.
std::vector<ProcessorSet> masks_of_a_call(int threads) {
  std::mutex mutex;
  std::vector<ProcessorSet> masks;
  std::set<std::thread::id> seen;
  const auto everybody_is_there = [&] {
    const std::lock_guard lock(mutex);
    return seen.size() == static_cast<std::size_t>(threads);
  };
  EXPECT_EQ(run_items(threads, threads,
                      [&](std::int64_t) {
                        {
                          const std::lock_guard lock(mutex);
                          seen.insert(std::this_thread::get_id());
                          masks.push_back(ProcessorSet::of_thread());
                        }
                        for (int i = 0; i < 1000 && !everybody_is_there(); ++i) {
                          std::this_thread::sleep_for(std::chrono::milliseconds(10));
                        }
                      }),
            threads);
  EXPECT_EQ(seen.size(), static_cast<std::size_t>(threads));
  return masks;
}

TEST(NodeBinding, KeepsAllThreadsOfACallOnTheNode) {
  const ProcessorSet before = ProcessorSet::of_thread();
  for (int turn = 0; turn < 2; ++turn) {
    for (const NodeProcessors& each : two_nodes()) {
      const NodeBinding binding(each.node, each.processors);
      EXPECT_EQ(NodeBinding::node(), each.node);
      EXPECT_EQ(masks_of_a_call(3), std::vector<ProcessorSet>(3, each.processors)) << each.node;
    }
    EXPECT_EQ(masks_of_a_call(3), std::vector<ProcessorSet>(3, before)) << "calls without a node run anywhere";
  }
}

TEST(NodeBinding, GivesTheCallerItsProcessorsBack) {
  const ProcessorSet before = ProcessorSet::of_thread();
  const NodeProcessors node = two_nodes().front();
  {
    const NodeBinding binding(node.node, node.processors);
    EXPECT_EQ(ProcessorSet::of_thread(), node.processors);
  }
  EXPECT_EQ(ProcessorSet::of_thread(), before);
  EXPECT_EQ(NodeBinding::node(), std::nullopt);
  const auto failing = [&] {
    const NodeBinding binding(node.node, node.processors);
    run_items(2, 10, [](std::int64_t) { throw std::runtime_error("an item"); });
  };
  EXPECT_THROW(failing(), std::runtime_error);
  EXPECT_EQ(ProcessorSet::of_thread(), before);
}

TEST(NodeBinding, InsideAnotherOneCountsUntilItEnds) {
  const ProcessorSet before = ProcessorSet::of_thread();
  const std::vector<NodeProcessors> nodes = two_nodes();
  const NodeBinding outer(nodes[0].node, nodes[0].processors);
  {
    const NodeBinding inner(nodes[1].node, nodes[1].processors);
    EXPECT_EQ(NodeBinding::node(), nodes[1].node);
    EXPECT_EQ(ProcessorSet::of_thread(), nodes[1].processors);
    EXPECT_EQ(NodeBinding::unbound_processors().set, before);
  }
  EXPECT_EQ(NodeBinding::node(), nodes[0].node);
  EXPECT_EQ(ProcessorSet::of_thread(), nodes[0].processors);
  {
    const NodeBinding of_any_node(Stream{});
    EXPECT_EQ(NodeBinding::node(), nodes[0].node) << "a stream without a node changes nothing";
  }
  {
    const NodeBinding of_real_node(Stream{.node = memory_nodes().front().number});
    EXPECT_EQ(NodeBinding::node(), memory_nodes().front().number);
    EXPECT_EQ(NodeBinding::unbound_processors().set, before);
  }
}

TEST(NodeBinding, LetsACallHaveAsManyThreadsAsTheNodeHasProcessors) {
  const NodeProcessors node = two_nodes().front();
  const int all = get_num_threads();
  {
    const NodeBinding binding(node.node, node.processors);
    EXPECT_EQ(available_threads(), std::min(all, node.processors.count()));
    EXPECT_EQ(get_num_threads(), std::min(all, node.processors.count()));
    set_num_threads(Stream::max_threads);
    EXPECT_EQ(get_num_threads(), usable_processors().count()) << "a number for all processors is too large for a node";
    set_num_threads(1);
    EXPECT_EQ(get_num_threads(), 1);
    set_num_threads(0);
  }
  EXPECT_EQ(get_num_threads(), all);
}

// Each caller waits inside its call until the other one is inside, too.
TEST(NodeBinding, LetsCallsOfTwoNodesRunAtOnceWithTheirOwnThreads) {
  const std::vector<NodeProcessors> nodes = two_nodes();
  constexpr int threads = 2;
  std::array<std::atomic<int>, 2> inside = {};
  std::array<std::set<std::thread::id>, 2> seen;
  std::atomic<int> elsewhere{0};
  std::mutex mutex;
  std::vector<std::thread> callers;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    callers.emplace_back([&, i] {
      const NodeBinding binding(nodes[i].node, nodes[i].processors);
      EXPECT_EQ(run_items(threads, threads,
                          [&](std::int64_t) {
                            {
                              const std::lock_guard lock(mutex);
                              seen[i].insert(std::this_thread::get_id());
                            }
                            elsewhere += ProcessorSet::of_thread() == nodes[i].processors ? 0 : 1;
                            ++inside[i];
                            for (int turn = 0; turn < 1000 && inside[0] + inside[1] < 2 * threads; ++turn) {
                              std::this_thread::sleep_for(std::chrono::milliseconds(10));
                            }
                          }),
                threads);
    });
  }
  for (std::thread& caller : callers) {
    caller.join();
  }
  EXPECT_EQ(elsewhere, 0);
  EXPECT_EQ(inside[0] + inside[1], 2 * threads);
  std::vector<std::thread::id> shared;
  std::ranges::set_intersection(seen[0], seen[1], std::back_inserter(shared));
  EXPECT_TRUE(shared.empty()) << "a thread worked for both nodes";
  EXPECT_EQ(seen[0].size() + seen[1].size(), 2U * threads);
}

TEST(NodeBinding, LetsManyCallersOfBothNodesAndOfNoneWorkAtOnce) {
  const std::vector<NodeProcessors> nodes = two_nodes();
  constexpr int calls = 200;
  constexpr std::int64_t items = 40;
  std::atomic<std::int64_t> done{0};
  std::atomic<int> elsewhere{0};
  std::vector<std::thread> callers;
  constexpr int count = 6;
  for (int caller = 0; caller < count; ++caller) {
    callers.emplace_back([&, caller] {
      const ProcessorSet before = ProcessorSet::of_thread();
      for (int i = 0; i < calls; ++i) {
        const auto node = static_cast<std::size_t>((i + caller) % 3);
        std::optional<NodeBinding> binding;
        if (node < nodes.size()) {
          binding.emplace(nodes[node].node, nodes[node].processors);
        }
        const ProcessorSet& expected = binding ? nodes[node].processors : before;
        run_items(2, items, [&](std::int64_t) {
          elsewhere += ProcessorSet::of_thread() == expected ? 0 : 1;
          ++done;
        });
      }
    });
  }
  for (std::thread& caller : callers) {
    caller.join();
  }
  EXPECT_EQ(done, std::int64_t{count} * calls * items);
  EXPECT_EQ(elsewhere, 0);
}

// A block that was written on one node would be far from the other one's processors.
TEST(NodeBinding, KeepsBlocksOfMemoryForCallsOfTheSameNode) {
#ifdef GQMM_KEEPS_NO_BLOCKS
  GTEST_SKIP() << "the address sanitizer sees no block twice";
#endif
  constexpr std::size_t bytes = std::size_t{3} << 20;
  const std::vector<NodeProcessors> nodes = two_nodes();
  const auto allocate_on = [&](std::size_t i) {
    const NodeBinding binding(nodes[i].node, nodes[i].processors);
    return detail::allocate_shared(bytes);
  };
  std::shared_ptr<void> first = allocate_on(0);
  std::shared_ptr<void> second = allocate_on(1);
  const std::array<const void*, 2> blocks = {first.get(), second.get()};
  first.reset();
  second.reset();
  const std::shared_ptr<void> of_no_node = detail::allocate_shared(bytes);
  EXPECT_NE(of_no_node.get(), blocks[0]);
  EXPECT_NE(of_no_node.get(), blocks[1]);
  EXPECT_EQ(allocate_on(1).get(), blocks[1]);
  EXPECT_EQ(allocate_on(0).get(), blocks[0]);
}

}  // namespace
}  // namespace gqmm::threads
