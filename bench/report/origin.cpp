#include "report/origin.hpp"

#include "tools/machine.hpp"

#include <fmt/format.h>
#include <gqmm/system.hpp>

#include <cctype>
#include <ctime>
#include <filesystem>
#include <fstream>

namespace gqmm::bench {
namespace {

std::string compiler_name() {
#if defined(__clang__)
  return fmt::format("Clang {}.{}.{}", __clang_major__, __clang_minor__, __clang_patchlevel__);
#else
  return fmt::format("GCC {}.{}.{}", __GNUC__, __GNUC_MINOR__, __GNUC_PATCHLEVEL__);
#endif
}

}  // namespace

MachineFacts describe_machine() {
  MachineFacts machine;
  machine.cpu = tools::cpu_name();
  machine.processors = tools::processor_count();
  machine.threads = available_threads();
  machine.last_level_cache = tools::last_level_cache_bytes();
  machine.memory = tools::physical_memory();
  machine.kernel = tools::kernel_name();
  machine.huge_pages = tools::huge_page_setting("enabled").value_or("unknown");
  for (const InstructionSet& isa : instruction_sets()) {
    if (isa.supported) {
      machine.instruction_sets.push_back(isa.name);
    }
  }
  machine.compiler = compiler_name();
  machine.library_version = version();
  return machine;
}

std::string file_name_of(const MachineFacts& machine) {
  std::string name;
  for (const char c : machine.cpu) {
    if (std::isalnum(static_cast<unsigned char>(c)) != 0) {
      name += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    } else if (!name.empty() && name.back() != '-') {
      name += '-';
    }
  }
  while (!name.empty() && name.back() == '-') {
    name.pop_back();
  }
  return name;
}

std::string today() {
  const std::time_t now = std::time(nullptr);
  std::tm utc = {};
  gmtime_r(&now, &utc);
  return fmt::format("{:04}-{:02}-{:02}", utc.tm_year + 1900, utc.tm_mon + 1, utc.tm_mday);
}

std::string command_line() {
  std::ifstream file("/proc/self/cmdline", std::ios::binary);
  std::string line;
  for (std::string argument; std::getline(file, argument, '\0');) {
    if (line.empty()) {
      line = std::filesystem::path(argument).filename().string();
      continue;
    }
    const bool plain = !argument.empty() && argument.find_first_of(" '\"$\\*?&|;<>()") == std::string::npos;
    line += plain ? fmt::format(" {}", argument) : fmt::format(" '{}'", argument);
  }
  return line;
}

}  // namespace gqmm::bench
