// The threads of the process in which a test runs.
#pragma once

#include <filesystem>
#include <iterator>

namespace gqmm::threads {

inline int process_threads() {
  return static_cast<int>(
      std::distance(std::filesystem::directory_iterator("/proc/self/task"), std::filesystem::directory_iterator()));
}

}  // namespace gqmm::threads
