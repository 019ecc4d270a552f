// Memory whose neighbours cannot be touched: an access one byte too far ends the test with SIGSEGV, in every build.
#pragma once

#include <cstddef>
#include <memory>

namespace gqmm::conformance {

enum class Edge {
  upper,  ///< the last byte stands right before an inaccessible page
  lower,  ///< the first byte stands right after one
};

/// `bytes` bytes of 0xff, which is NaN in every float type, with an inaccessible page on either side.
std::shared_ptr<std::byte> guarded_memory(std::size_t bytes, Edge edge);

/// From now on a write to this guarded memory ends the test as well: operands are the caller's, often a read-only file map.
void make_read_only(const std::shared_ptr<std::byte>& memory, std::size_t bytes);

/// From now on SIGSEGV, SIGBUS, SIGFPE and SIGILL print this text (the problem being run) before they end the process.
void set_crash_note(const char* text);

}  // namespace gqmm::conformance
