#include <gqmm/system.hpp>

#include "api/thread_limits.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif

namespace gqmm {
namespace {

constexpr int no_limit = 1 << 20;

std::optional<int> unless_unlimited(int threads) { return threads == no_limit ? std::nullopt : std::optional(threads); }

int threads_by_affinity() {
#if defined(__linux__)
  // The kernel refuses a mask that is smaller than its own, which may have more than the 1,024 processors of a cpu_set_t.
  for (std::size_t sets = 1; sets <= 1024; sets *= 2) {
    std::vector<cpu_set_t> mask(sets);
    const std::size_t bytes = sets * sizeof(cpu_set_t);
    if (sched_getaffinity(0, bytes, mask.data()) == 0) {
      return CPU_COUNT_S(bytes, mask.data());
    }
  }
#endif
  return static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
}

/// The limit that a group's folder states.
int read_quota(const std::string& folder) {
  const auto read = [](std::ifstream& file, std::int64_t& value) { return static_cast<bool>(file >> value); };
  std::int64_t quota = 0;  // µs in each period
  std::int64_t period = 0;
  if (std::ifstream v2(folder + "/cpu.max"); !read(v2, quota) || !read(v2, period)) {  // "max" is no number: no limit
    std::ifstream v1_quota(folder + "/cpu.cfs_quota_us");
    std::ifstream v1_period(folder + "/cpu.cfs_period_us");
    if (!read(v1_quota, quota) || !read(v1_period, period)) {
      return no_limit;
    }
  }
  if (quota <= 0 || period <= 0) {  // -1 in version 1
    return no_limit;
  }
  return static_cast<int>(std::min<std::int64_t>(no_limit, quota / period + (quota % period != 0 ? 1 : 0)));
}

bool names_cpu(const std::string& controllers) {  // "cpu,cpuacct", but not "cpuset"
  return ("," + controllers + ",").find(",cpu,") != std::string::npos;
}

/// Of this process's group and those above it (/proc/self/cgroup: lines "id:controllers:path", version 2 without controllers).
int threads_by_cgroup(const std::string& file_system) {
  const std::string v2 = file_system + "/sys/fs/cgroup";
  const std::string v1 = v2 + "/cpu";
  // In a container, its own group is the root of what it sees, whatever path the line says.
  int limit = std::min(read_quota(v2), read_quota(v1));
  std::ifstream groups(file_system + "/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const std::size_t controllers = line.find(':');
    const std::size_t path = controllers == std::string::npos ? controllers : line.find(':', controllers + 1);
    if (path == std::string::npos) {
      continue;
    }
    const std::string names = line.substr(controllers + 1, path - controllers - 1);
    if (!names.empty() && !names_cpu(names)) {
      continue;
    }
    for (std::string group = line.substr(path + 1); group.size() > 1 && group.front() == '/'; group.resize(group.rfind('/'))) {
      limit = std::min(limit, read_quota((names.empty() ? v2 : v1) + group));
    }
  }
  return limit;
}

int threads_by_environment() {
  const char* text = std::getenv("OMP_NUM_THREADS");
  const std::int64_t threads =
      text == nullptr ? 0 : std::strtoll(text, nullptr, 10);  // "4,2" names nested levels: the first counts
  return threads > 0 ? static_cast<int>(std::min<std::int64_t>(threads, no_limit)) : no_limit;
}

}  // namespace

std::string_view version() noexcept { return GQMM_VERSION; }

std::optional<int> cgroup_threads(const std::string& root) { return unless_unlimited(threads_by_cgroup(root)); }

ThreadLimits thread_limits() { return {threads_by_affinity(), cgroup_threads(), unless_unlimited(threads_by_environment())}; }

int available_threads() {
  static const int threads = std::min({threads_by_affinity(), threads_by_cgroup({}), threads_by_environment()});
  return threads;
}

}  // namespace gqmm
