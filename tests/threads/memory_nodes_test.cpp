// Tests how the memory nodes of a machine are found, from trees of files like the kernel's.
#include "threads/memory_nodes.hpp"
#include "threads/node_files.hpp"
#include "threads/processor_set.hpp"

#include <gqmm/system.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

namespace gqmm::threads {
namespace {

/// The nodes with the numbers of their processors.
std::vector<std::pair<int, std::vector<int>>> numbers_of(const std::vector<NodeProcessors>& nodes) {
  std::vector<std::pair<int, std::vector<int>>> numbers;
  for (const NodeProcessors& each : nodes) {
    numbers.emplace_back(each.node, each.processors.numbers());
  }
  return numbers;
}

TEST(MemoryNodes, AreThoseThatTheSystemListsWithTheirProcessors) {
  NodeFiles files;
  files.write("online", "0-1,10\n");
  files.write("node0/cpulist", "0-2,8-9\n");
  files.write("node1/cpulist", "3\n");
  files.write("node10/cpulist", "4-4,130,8191\n");
  files.write("node2/cpulist", "5\n");  // not online
  EXPECT_EQ(numbers_of(files.nodes()),
            (std::vector<std::pair<int, std::vector<int>>>{{0, {0, 1, 2, 8, 9}}, {1, {3}}, {10, {4, 130, 8191}}}));
}

TEST(MemoryNodes, WithoutProcessorsAreLeftOut) {
  NodeFiles files;
  files.write("online", "0-3\n");
  files.write("node0/cpulist", "\n");  // memory alone, as that of CXL devices
  files.write("node1/cpulist", "6-7\n");
  files.write("node2/cpulist", "");
  EXPECT_EQ(numbers_of(files.nodes()), (std::vector<std::pair<int, std::vector<int>>>{{1, {6, 7}}}));
}

TEST(MemoryNodes, AreOneWithEveryProcessorIfTheSystemDoesNotSay) {
  NodeFiles files;
  const auto expect_one_node = [&files](const std::string& what) {
    const std::vector<NodeProcessors> nodes = files.nodes();
    ASSERT_EQ(nodes.size(), 1U) << what;
    EXPECT_EQ(nodes.front().node, 0) << what;
    EXPECT_EQ(nodes.front().processors, ProcessorSet::all()) << what;
  };
  expect_one_node("no files");
  files.write("online", "7\n");
  expect_one_node("no list of processors");
  for (const char* text : {"", "\n", "none", "-1", ",", "-", "99999999999", "9000"}) {
    files.write("node7/cpulist", text);
    expect_one_node(text);
  }
}

TEST(MemoryNodes, HaveNoProcessorBeyondTheLargestNumber) {
  NodeFiles files;
  files.write("online", "0\n");
  files.write("node0/cpulist", "8190-2147483647,8192\n");
  EXPECT_EQ(numbers_of(files.nodes()), (std::vector<std::pair<int, std::vector<int>>>{{0, {8190, 8191}}}));
}

// The nodes of this machine have each processor of this thread once, as every processor is nearest to one node.
TEST(MemoryNodes, OfThisMachineShareOutTheProcessorsOfThisThread) {
  std::vector<int> all;
  for (const MemoryNode& node : memory_nodes()) {
    EXPECT_FALSE(node.processors.empty()) << node.number;
    EXPECT_EQ(usable_processors_of(node.number)->numbers(), node.processors);
    all.insert(all.end(), node.processors.begin(), node.processors.end());
  }
  std::sort(all.begin(), all.end());
  EXPECT_EQ(all, ProcessorSet::of_thread().numbers());
  EXPECT_EQ(usable_processors_of(memory_nodes().back().number + 1), std::nullopt);
  EXPECT_EQ(usable_processors_of(-1), std::nullopt);
}

}  // namespace
}  // namespace gqmm::threads
