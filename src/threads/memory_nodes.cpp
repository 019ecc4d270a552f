#include "threads/memory_nodes.hpp"

#include "threads/first_use.hpp"
#include "threads/node_binding.hpp"
#include "threads/read_file.hpp"

#include <gqmm/system.hpp>

#include <algorithm>
#include <charconv>
#include <string_view>

namespace gqmm::threads {
namespace {

/// The numbers of a list such as "0-3,8,10-11\n". What follows a part that is no number or range is left out.
std::vector<int> numbers_of_list(std::string_view text) {
  std::vector<int> numbers;
  const char* at = text.data();
  const char* const end = at + text.size();
  while (true) {
    int first = 0;
    const auto [after_first, error] = std::from_chars(at, end, first);
    if (error != std::errc() || first < 0) {
      return numbers;
    }
    at = after_first;
    int last = first;
    if (at != end && *at == '-') {
      const auto [after_last, error_of_last] = std::from_chars(at + 1, end, last);
      if (error_of_last != std::errc()) {
        return numbers;
      }
      at = after_last;
    }
    for (int number = first; number <= std::min(last, ProcessorSet::max_processors - 1); ++number) {
      numbers.push_back(number);
    }
    if (at == end || *at != ',') {
      return numbers;
    }
    ++at;
  }
}

std::vector<int> numbers_in_file(const std::string& path) { return numbers_of_list(read_file(path).value_or("")); }

constinit FirstUse<const std::vector<NodeProcessors>> nodes_of_this_machine;

/// The nodes of this machine with those of their processors that the calling thread may use.
std::vector<NodeProcessors> usable_nodes() {
  const std::vector<NodeProcessors>& all = nodes_of_this_machine.get([] { return read_memory_nodes(); });
  const ProcessorSet usable = NodeBinding::unbound_processors().set;
  std::vector<NodeProcessors> nodes;
  for (const NodeProcessors& each : all) {
    if (const ProcessorSet processors = each.processors & usable; processors.count() != 0) {
      nodes.push_back({each.node, processors});
    }
  }
  return nodes;
}

}  // namespace

std::vector<NodeProcessors> read_memory_nodes(const std::string& root) {
  const std::string folder = root + "/sys/devices/system/node/";
  std::vector<NodeProcessors> nodes;
  for (const int node : numbers_in_file(folder + "online")) {
    NodeProcessors found = {.node = node, .processors = {}};
    for (const int processor : numbers_in_file(folder + "node" + std::to_string(node) + "/cpulist")) {
      found.processors.add(processor);
    }
    if (found.processors.count() != 0) {
      nodes.push_back(found);
    }
  }
  if (nodes.empty()) {
    nodes.push_back({.node = 0, .processors = ProcessorSet::all()});
  }
  return nodes;
}

std::optional<ProcessorSet> usable_processors_of(int node) {
  for (const NodeProcessors& each : usable_nodes()) {
    if (each.node == node) {
      return each.processors;
    }
  }
  return std::nullopt;
}

}  // namespace gqmm::threads

namespace gqmm {

std::vector<MemoryNode> memory_nodes() {
  std::vector<MemoryNode> nodes;
  for (const threads::NodeProcessors& each : threads::usable_nodes()) {
    nodes.push_back({.number = each.node, .processors = each.processors.numbers()});
  }
  return nodes;
}

}  // namespace gqmm
