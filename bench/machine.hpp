// What a report must say about the machine that its figures come from.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace gqmm::bench {

struct Machine {
  std::string cpu;                            // "AMD EPYC, family 26 model 2"
  int processors = 1;                         // that this process may run on
  int threads = 1;                            // that the library would use
  std::size_t last_level_cache = 0;           // bytes, all instances that one core sees
  std::size_t memory = 0;                     // bytes, physical
  std::string kernel;                         // "Linux 6.1.0"
  std::string huge_pages;                     // the kernel's setting: always, madvise, never
  std::vector<std::string> instruction_sets;  // the library's, supported here
  std::string compiler;                       // of the library
  std::string library_version;
  std::string library_revision;  // of its sources, which only its builder knows; empty: not known
};

Machine describe_machine();

/// Bytes of memory that can be allocated now without swapping.
std::size_t available_memory();

/// "amd-epyc-family-26-model-2": a file name for the machine's report.
std::string file_name_of(const Machine& machine);

/// Today in UTC, "2026-05-31".
std::string today();

/// This process's command line, its program reduced to its name: "gqmm bench --suite report".
std::string command_line();

/// Keeps the calling thread on the CPU that it runs on, while in scope, so that a one-thread case and its probes see one core.
class PinnedThread {
 public:
  explicit PinnedThread(bool pin);
  ~PinnedThread();
  PinnedThread(const PinnedThread&) = delete;
  PinnedThread& operator=(const PinnedThread&) = delete;

 private:
  std::vector<std::byte> saved_mask_;  // empty: nothing to restore
};

}  // namespace gqmm::bench
