#include "machine.hpp"

#include <fmt/format.h>
#include <sched.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <gqmm/system.hpp>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

namespace gqmm::bench {
namespace {

namespace fs = std::filesystem;

std::string first_line(const fs::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

std::string trim(std::string text) {
  const auto is_space = [](unsigned char c) { return std::isspace(c) != 0; };
  text.erase(text.begin(), std::find_if_not(text.begin(), text.end(), is_space));
  text.erase(std::find_if_not(text.rbegin(), text.rend(), is_space).base(), text.end());
  return text;
}

/// The "key : value" lines of a file, the first of each key.
std::map<std::string, std::string> key_values(const fs::path& path) {
  std::ifstream file(path);
  std::map<std::string, std::string> values;
  for (std::string line; std::getline(file, line);) {
    const auto colon = line.find(':');
    if (colon != std::string::npos) {
      values.emplace(trim(line.substr(0, colon)), trim(line.substr(colon + 1)));
    }
  }
  return values;
}

std::string cpu_name() {
  const auto values = key_values("/proc/cpuinfo");
  const auto get = [&](const char* key) {
    const auto found = values.find(key);
    return found == values.end() ? std::string() : found->second;
  };
  if (const std::string name = get("model name"); !name.empty()) {
    // Virtual machines shorten the name ("AMD EPYC"); family and model still tell the generation.
    return fmt::format("{}, family {} model {}", name, get("cpu family"), get("model"));
  }
  if (const std::string part = get("CPU part"); !part.empty()) {
    return fmt::format("CPU implementer {} part {}", get("CPU implementer"), part);
  }
  utsname system = {};
  uname(&system);
  return system.machine;
}

/// "32768K" or "32M" in bytes.
std::size_t bytes_of(const std::string& text) {
  std::size_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc()) {
    return 0;
  }
  const char unit = end == text.data() + text.size() ? ' ' : *end;
  return unit == 'K' ? value << 10 : unit == 'M' ? value << 20 : unit == 'G' ? value << 30 : value;
}

std::size_t last_level_cache_bytes() {
  std::size_t largest = 0;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator("/sys/devices/system/cpu/cpu0/cache", error)) {
    largest = std::max(largest, bytes_of(first_line(entry.path() / "size")));
  }
  constexpr std::size_t assumed = std::size_t{32} << 20;
  return largest == 0 ? assumed : largest;
}

int processor_count() {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  return sched_getaffinity(0, sizeof mask, &mask) == 0 ? CPU_COUNT(&mask) : static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
}

std::string huge_page_setting() {
  const std::string setting = first_line("/sys/kernel/mm/transparent_hugepage/enabled");
  const auto open = setting.find('[');
  const auto close = setting.find(']');
  return open == std::string::npos || close == std::string::npos ? "unknown" : setting.substr(open + 1, close - open - 1);
}

std::string compiler_name() {
#if defined(__clang__)
  return fmt::format("Clang {}.{}.{}", __clang_major__, __clang_minor__, __clang_patchlevel__);
#else
  return fmt::format("GCC {}.{}.{}", __GNUC__, __GNUC_MINOR__, __GNUC_PATCHLEVEL__);
#endif
}

}  // namespace

Machine describe_machine() {
  Machine machine;
  machine.cpu = cpu_name();
  machine.processors = processor_count();
  machine.threads = available_threads();
  machine.last_level_cache = last_level_cache_bytes();
  machine.memory = static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  utsname system = {};
  uname(&system);
  machine.kernel = fmt::format("{} {}", system.sysname, system.release);
  machine.huge_pages = huge_page_setting();
  for (const InstructionSet& isa : instruction_sets()) {
    if (isa.supported) {
      machine.instruction_sets.push_back(isa.name);
    }
  }
  machine.compiler = compiler_name();
  machine.library_version = version();
  return machine;
}

std::size_t available_memory() {
  const auto values = key_values("/proc/meminfo");
  const auto found = values.find("MemAvailable");
  std::size_t kibibytes = 0;
  if (found != values.end()) {
    std::istringstream(found->second) >> kibibytes;
  }
  return kibibytes == 0 ? std::size_t{4} << 30 : kibibytes << 10;
}

std::string file_name_of(const Machine& machine) {
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
      line = fs::path(argument).filename().string();
      continue;
    }
    const bool plain = !argument.empty() && argument.find_first_of(" '\"$\\*?&|;<>()") == std::string::npos;
    line += plain ? fmt::format(" {}", argument) : fmt::format(" '{}'", argument);
  }
  return line;
}

PinnedThread::PinnedThread(bool pin) {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  const int cpu = sched_getcpu();
  if (!pin || cpu < 0 || cpu >= CPU_SETSIZE || sched_getaffinity(0, sizeof mask, &mask) != 0) {
    return;
  }
  saved_mask_.resize(sizeof mask);
  std::memcpy(saved_mask_.data(), &mask, sizeof mask);
  CPU_ZERO(&mask);
  CPU_SET(static_cast<unsigned>(cpu), &mask);
  sched_setaffinity(0, sizeof mask, &mask);
}

PinnedThread::~PinnedThread() {
  if (!saved_mask_.empty()) {
    cpu_set_t mask;
    std::memcpy(&mask, saved_mask_.data(), sizeof mask);
    sched_setaffinity(0, sizeof mask, &mask);
  }
}

}  // namespace gqmm::bench
