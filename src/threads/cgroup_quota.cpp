#include "threads/cgroup_quota.hpp"

#include "threads/read_file.hpp"

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <string_view>

namespace gqmm::threads {
namespace {

/// Takes a whole number off the front of `text`, with the blanks before it.
std::optional<std::int64_t> take_number(std::string_view& text) {
  constexpr std::string_view blanks = " \t\n";
  text.remove_prefix(std::min(text.find_first_not_of(blanks), text.size()));
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  const bool whole = error == std::errc() && (text.empty() || blanks.find(text.front()) != std::string_view::npos);
  return whole ? std::optional(number) : std::nullopt;
}

std::optional<std::int64_t> read_number(const std::string& path) {
  const std::optional<std::string> text = read_file(path);
  std::string_view rest = text ? std::string_view(*text) : std::string_view();
  return take_number(rest);
}

/// Microseconds of processor time in each period of so many microseconds; −1 (version 1) is no limit.
std::optional<double> processors(std::optional<std::int64_t> quota, std::optional<std::int64_t> period) {
  if (!quota || !period || *quota <= 0 || *period <= 0) {
    return std::nullopt;
  }
  return static_cast<double>(*quota) / static_cast<double>(*period);
}

/// The quota that one group states: "150000 100000" in version 2, where "max" in place of the first number is no limit; a file
/// for each number in version 1.
std::optional<double> quota_of(const std::string& group) {
  if (const std::optional<std::string> text = read_file(group + "/cpu.max")) {
    std::string_view rest = *text;
    const std::optional<std::int64_t> quota = take_number(rest);
    if (const std::optional<double> found = processors(quota, take_number(rest))) {
      return found;
    }
  }
  return processors(read_number(group + "/cpu.cfs_quota_us"), read_number(group + "/cpu.cfs_period_us"));
}

void tighten(std::optional<double>& limit, std::optional<double> other) {
  if (other) {
    limit = std::min(limit.value_or(*other), *other);
  }
}

/// The list of controllers has the controller "cpu": "cpu,cpuacct", but not "cpuset".
bool names_cpu(std::string_view controllers) { return ("," + std::string(controllers) + ",").find(",cpu,") != std::string::npos; }

}  // namespace

std::optional<double> cgroup_quota(const std::string& root) {
  const std::string version2 = root + "/sys/fs/cgroup";
  const std::string version1 = version2 + "/cpu";
  // In a container, its own group is the root of what it sees, whatever path the lines below have.
  std::optional<double> limit = quota_of(version2);
  tighten(limit, quota_of(version1));
  // Lines "id:controllers:path"; the controllers are empty in version 2.
  const std::optional<std::string> lines = read_file(root + "/proc/self/cgroup");
  std::string_view rest = lines ? std::string_view(*lines) : std::string_view();
  while (!rest.empty()) {
    const std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(line.size() + 1, rest.size()));
    const std::size_t controllers = line.find(':');
    const std::size_t path = controllers == std::string_view::npos ? controllers : line.find(':', controllers + 1);
    if (path == std::string_view::npos) {
      continue;
    }
    const std::string_view names = line.substr(controllers + 1, path - controllers - 1);
    if (!names.empty() && !names_cpu(names)) {
      continue;
    }
    for (std::string group(line.substr(path + 1)); group.size() > 1 && group.front() == '/'; group.resize(group.rfind('/'))) {
      tighten(limit, quota_of((names.empty() ? version2 : version1) + group));
    }
  }
  return limit;
}

}  // namespace gqmm::threads
