// Memory nodes in files like the kernel's.
#pragma once

#include "api/api_test_support.hpp"
#include "threads/memory_nodes.hpp"
#include "threads/processor_set.hpp"

#include <fmt/ranges.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace gqmm::threads {

/// A tree of files with the part of /sys that tells of memory nodes.
class NodeFiles {
 public:
  /// Writes a file of the folder of nodes: "online", or "node1/cpulist".
  void write(const std::string& name, const std::string& text) {
    const std::filesystem::path path = folder_.file("sys/devices/system/node/" + name);
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << text;
  }
  [[nodiscard]] std::vector<NodeProcessors> nodes() const { return read_memory_nodes(folder_.file("").native()); }

 private:
  test::TemporaryFolder folder_;
};

/// Two memory nodes, 3 and 5, that share out the processors of the calling thread. If it has a single processor, both have that.
inline std::vector<NodeProcessors> two_nodes() {
  const std::vector<int> all = ProcessorSet::of_thread().numbers();
  const auto middle = all.begin() + static_cast<std::ptrdiff_t>(all.size() / 2);
  const std::vector<int> first(all.begin(), all.size() == 1 ? all.end() : middle);
  NodeFiles files;
  files.write("online", "3,5\n");
  files.write("node3/cpulist", fmt::format("{}\n", fmt::join(first, ",")));
  files.write("node5/cpulist", fmt::format("{}\n", fmt::join(std::vector<int>(middle, all.end()), ",")));
  return files.nodes();
}

}  // namespace gqmm::threads
