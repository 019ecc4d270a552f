#include "tools/machine.hpp"

#include <fmt/format.h>

#include <sched.h>
#include <sys/utsname.h>
#include <unistd.h>
#include <algorithm>
#include <cctype>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <system_error>

namespace gqmm::tools {
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

/// The values of the "key : value" lines of a file. If a key appears several times, its first value counts.
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

std::optional<std::int64_t> positive_sysconf(int name) {
  const std::int64_t value = sysconf(name);
  return value > 0 ? std::optional(value) : std::nullopt;
}

/// Reads a size such as "32768K" or "32M", and returns it in bytes.
std::size_t parse_size(const std::string& text) {
  std::size_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc()) {
    return 0;
  }
  const char suffix = end == text.data() + text.size() ? ' ' : *end;
  return suffix == 'K' ? value << 10 : suffix == 'M' ? value << 20 : suffix == 'G' ? value << 30 : value;
}

utsname system_name() {
  utsname system = {};
  uname(&system);
  return system;
}

}  // namespace

std::optional<std::string> cpu_model() {
  const auto values = key_values("/proc/cpuinfo");
  const auto found = values.find("model name");
  return found == values.end() || found->second.empty() ? std::nullopt : std::optional(found->second);
}

std::string cpu_name() {
  const auto values = key_values("/proc/cpuinfo");
  const auto get = [&](const char* key) {
    const auto found = values.find(key);
    return found == values.end() ? std::string() : found->second;
  };
  if (const auto name = cpu_model()) {
    // Virtual machines shorten the name, for example to "AMD EPYC". The family and the model still tell the generation.
    return fmt::format("{}, family {} model {}", *name, get("cpu family"), get("model"));
  }
  if (const std::string part = get("CPU part"); !part.empty()) {
    return fmt::format("CPU implementer {} part {}", get("CPU implementer"), part);
  }
  return system_name().machine;
}

int processor_count() {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  return sched_getaffinity(0, sizeof mask, &mask) == 0 ? CPU_COUNT(&mask) : static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
}

std::optional<std::int64_t> level1_cache_bytes() { return positive_sysconf(_SC_LEVEL1_DCACHE_SIZE); }

std::optional<std::int64_t> level2_cache_bytes() { return positive_sysconf(_SC_LEVEL2_CACHE_SIZE); }

std::size_t last_level_cache_bytes() {
  std::size_t largest = 0;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator("/sys/devices/system/cpu/cpu0/cache", error)) {
    largest = std::max(largest, parse_size(first_line(entry.path() / "size")));
  }
  constexpr std::size_t assumed = std::size_t{32} << 20;
  return largest == 0 ? assumed : largest;
}

std::size_t physical_memory() {
  return static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
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

std::optional<std::string> huge_page_setting(std::string_view name) {
  const std::string setting = first_line(fs::path("/sys/kernel/mm/transparent_hugepage") / name);
  const auto open = setting.find('[');
  const auto close = setting.find(']');
  return open == std::string::npos || close == std::string::npos ? std::nullopt
                                                                 : std::optional(setting.substr(open + 1, close - open - 1));
}

std::vector<HugePagePool> huge_page_pools() {
  std::vector<HugePagePool> pools;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator("/sys/kernel/mm/hugepages", error)) {
    const std::string name = entry.path().filename();  // "hugepages-2048kB"
    std::int64_t free = 0;
    if (name.starts_with("hugepages-") && std::ifstream(entry.path() / "free_hugepages") >> free) {
      pools.push_back({std::stoll(name.substr(name.find('-') + 1)), free});
    }
  }
  return pools;
}

std::string kernel_name() {
  const utsname system = system_name();
  return fmt::format("{} {}", system.sysname, system.release);
}

}  // namespace gqmm::tools
