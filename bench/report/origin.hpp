// The origin of a report's figures: the machine, the day and the command.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace gqmm::bench {

struct MachineFacts {
  std::string cpu;                            // "AMD EPYC, family 26 model 2"
  int processors = 1;                         // the processors that this process may run on
  int threads = 1;                            // the threads that the library would use
  std::size_t last_level_cache = 0;           // bytes of all instances that one core sees
  std::size_t memory = 0;                     // bytes of physical memory
  std::string kernel;                         // "Linux 6.1.0"
  std::string huge_pages;                     // the kernel's setting: always, madvise or never
  std::vector<std::string> instruction_sets;  // the library's instruction sets that this machine supports
  std::string compiler;                       // the compiler of the library
  std::string library_version;
  std::string library_revision;  // the revision of its sources, which only its builder knows; empty if it is not known
};

MachineFacts describe_machine();

/// Returns a file name for the machine's report, for example "amd-epyc-family-26-model-2".
std::string file_name_of(const MachineFacts& machine);

/// Returns today's date in UTC, for example "2026-05-31".
std::string today();

/// Returns this process's command line without the program's folder, for example "gqmm bench --suite report".
std::string command_line();

}  // namespace gqmm::bench
