// The memory nodes of the machine: parts of its memory, each with the processors that are nearest to it.
#pragma once

#include "threads/processor_set.hpp"

#include <optional>
#include <string>
#include <vector>

namespace gqmm::threads {

/// A memory node that has processors.
struct NodeProcessors {
  int node = 0;
  ProcessorSet processors;
};

/// All memory nodes that have processors, in the order of their numbers. If the system does not say, this is one node with the
/// number 0 and every processor. The function puts `root` before /sys, so that tests can give it other files.
[[nodiscard]] std::vector<NodeProcessors> read_memory_nodes(const std::string& root = {});

/// The processors of a node that the calling thread may use. Returns nothing if there are none. The system's files are read once.
[[nodiscard]] std::optional<ProcessorSet> usable_processors_of(int node);

}  // namespace gqmm::threads
