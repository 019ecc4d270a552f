#include "threads/cgroup_quota.hpp"

#include "threads/read_file.hpp"

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <string_view>

namespace gqmm::threads {
namespace {

/// Removes a whole number and the blanks before it from the front of `text`. Returns the number, or nothing if there is none.
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

/// The number of processors that a quota grants: `quota` microseconds of processor time in each `period` microseconds. A quota of
/// −1 means no limit in version 1.
std::optional<double> processors(std::optional<std::int64_t> quota, std::optional<std::int64_t> period) {
  if (!quota || !period || *quota <= 0 || *period <= 0) {
    return std::nullopt;
  }
  return static_cast<double>(*quota) / static_cast<double>(*period);
}

/// The quota that one group states, in processors. Version 2 has one file with both numbers, for example "150000 100000". The
/// word "max" in place of the first number means no limit. Version 1 has a file for each number.
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

/// True if the list contains the controller "cpu". "cpu,cpuacct" contains it, and "cpuset" does not.
bool names_cpu(std::string_view controllers) { return ("," + std::string(controllers) + ",").find(",cpu,") != std::string::npos; }

}  // namespace

std::optional<double> cgroup_quota(const std::string& root) {
  const std::string version2 = root + "/sys/fs/cgroup";
  const std::string version1 = version2 + "/cpu";
  // A process in a container sees its own group as the root, whatever path the lines below state.
  std::optional<double> limit = quota_of(version2);
  tighten(limit, quota_of(version1));
  // Each line has the form "id:controllers:path". The list of controllers is empty in version 2.
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
