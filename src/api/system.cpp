#include <gqmm/system.hpp>

#include "api/thread_limits.hpp"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

namespace gqmm {
namespace {

constexpr int no_limit = 1 << 20;

int threads_by_affinity() {
#if defined(__linux__)
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) {
    return CPU_COUNT(&set);
  }
#endif
  return static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
}

/// CPUs of a quota in microseconds per period, rounded up.
int cpus_of(double quota, double period) {
  return quota > 0 && period > 0 ? std::max(1, static_cast<int>((quota + period - 1) / period)) : no_limit;
}

int read_quota(const std::string& folder) {
  double quota = 0;
  double period = 0;
  if (std::ifstream max(folder + "/cpu.max"); max >> quota >> period) {  // cgroup v2; "max" fails to parse: no limit
    return cpus_of(quota, period);
  }
  std::ifstream v1_quota(folder + "/cpu.cfs_quota_us");
  std::ifstream v1_period(folder + "/cpu.cfs_period_us");
  if (v1_quota >> quota && v1_period >> period) {
    return cpus_of(quota, period);
  }
  return no_limit;
}

/// The tightest CPU quota of this process's cgroup and those above it (/proc/self/cgroup: "id:controllers:path" lines).
int threads_by_cgroup() {
  int limit = std::min(read_quota("/sys/fs/cgroup"), read_quota("/sys/fs/cgroup/cpu"));
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const std::size_t controllers = line.find(':');
    const std::size_t path = line.find(':', controllers + 1);
    if (controllers == std::string::npos || path == std::string::npos) {
      continue;
    }
    const std::string names = line.substr(controllers + 1, path - controllers - 1);
    if (!names.empty() && names.find("cpu") == std::string::npos) {
      continue;
    }
    const std::string root = names.empty() ? "/sys/fs/cgroup" : "/sys/fs/cgroup/cpu";
    for (std::string group = line.substr(path + 1); group.size() > 1; group.resize(group.rfind('/'))) {
      limit = std::min(limit, read_quota(root + group));
      if (group.rfind('/') == 0 || group.rfind('/') == std::string::npos) {
        break;
      }
    }
  }
  return limit;
}

int threads_by_environment() {
  const char* text = std::getenv("OMP_NUM_THREADS");
  const int threads = text == nullptr ? 0 : std::atoi(text);  // "4,2" names nested levels: the first counts
  return threads > 0 ? threads : no_limit;
}

}  // namespace

std::string_view version() noexcept { return GQMM_VERSION; }

ThreadLimits thread_limits() {
  const auto limit = [](int threads) { return threads == no_limit ? std::nullopt : std::optional(threads); };
  return {threads_by_affinity(), limit(threads_by_cgroup()), limit(threads_by_environment())};
}

int available_threads() {
  static const int threads = std::min({threads_by_affinity(), threads_by_cgroup(), threads_by_environment()});
  return threads;
}

}  // namespace gqmm
