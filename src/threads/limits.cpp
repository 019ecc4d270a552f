#include "threads/limits.hpp"

#include "threads/cgroup_quota.hpp"
#include "threads/fork.hpp"
#include "threads/openmp_runtimes.hpp"

#include <gqmm/c.h>
#include <gqmm/stream.hpp>
#include <gqmm/system.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <mutex>
#include <stdexcept>

namespace gqmm::threads {
namespace {

using Clock = std::chrono::steady_clock;

// The quota and the loaded OpenMP runtimes are read from files of the system, which takes too long for each call.
constexpr std::chrono::seconds looked_up_for{1};

// What was looked up last.
struct Known {
  bool valid = false;
  Clock::time_point looked_up;
  std::optional<double> quota;
  ProcessorSet thread;  // the affinity mask of the thread that asked last
  ProcessorSet before_binding;
};
constinit Known known;
constinit ForkSafeMutex known_mutex;
const ForkSafeMutex::Registration known_registration(known_mutex);

// set_num_threads; 0: nobody has called it.
constinit std::atomic<int> chosen{0};

constexpr int no_limit = Stream::max_threads;

int rounded_up(const std::optional<double>& quota) {
  return quota ? static_cast<int>(std::clamp(std::ceil(*quota), 1.0, static_cast<double>(no_limit))) : no_limit;
}

/// The variables are read at the first call alone: a program may change its environment later, on any thread.
struct Environment {
  std::optional<int> gqmm_num_threads;
  OmpNumThreads omp_num_threads;

  static Environment read() {
    return {parse_gqmm_num_threads(std::getenv("GQMM_NUM_THREADS")), parse_omp_num_threads(std::getenv("OMP_NUM_THREADS"))};
  }
  [[nodiscard]] int limit() const { return gqmm_num_threads.value_or(omp_num_threads.threads.value_or(no_limit)); }
};

int environment_limit() {
  constinit static std::atomic<int> limit{0};
  int found = limit.load(std::memory_order_relaxed);
  if (found == 0) {
    found = Environment::read().limit();  // every thread that comes here finds the same
    limit.store(found, std::memory_order_relaxed);
  }
  return found;
}

}  // namespace

int Processors::count() const { return std::max(1, std::min(set.count(), rounded_up(quota))); }

Processors usable_processors() {
  const ProcessorSet thread = ProcessorSet::of_thread();
  const Clock::time_point now = Clock::now();
  std::unique_lock lock(known_mutex);
  const bool fresh = known.valid && now - known.looked_up < looked_up_for;
  Known found = known;
  lock.unlock();
  if (fresh && found.thread == thread) {
    return {found.before_binding, found.quota};
  }
  if (!fresh) {
    find_openmp_runtimes();
    found.quota = cgroup_quota();
    found.looked_up = now;
    found.valid = true;
  }
  found.thread = thread;
  found.before_binding = processors_before_binding(thread).value_or(thread);
  lock.lock();
  known = found;
  return {found.before_binding, found.quota};
}

void check_environment() { static_cast<void>(environment_limit()); }

int ThreadLimits::threads() const {
  const int environment = gqmm_num_threads.value_or(omp_num_threads.threads.value_or(no_limit));
  return std::max(1, std::min({affinity, rounded_up(cgroup_quota), environment}));
}

ThreadLimits thread_limits() {
  const Environment environment = Environment::read();
  const Processors processors = usable_processors();
  return {.affinity = processors.set.count(),
          .cgroup_quota = threads::cgroup_quota(),
          .gqmm_num_threads = environment.gqmm_num_threads,
          .omp_num_threads = environment.omp_num_threads};
}

}  // namespace gqmm::threads

namespace gqmm {

int available_threads() {
  const int limit = threads::environment_limit();
  return std::min(limit, threads::usable_processors().count());
}

int get_num_threads() {
  const int limit = threads::environment_limit();
  const int chosen = threads::chosen.load(std::memory_order_relaxed);
  return chosen > 0 ? chosen : std::min(limit, threads::usable_processors().count());
}

void set_num_threads(int threads) {
  if (threads < 0 || threads > Stream::max_threads) {
    throw std::invalid_argument(fmt::format(
        "[set_num_threads] threads = {}; give 1 to {}, or 0 for as many as the machine grants", threads, Stream::max_threads));
  }
  threads::chosen.store(threads, std::memory_order_relaxed);
}

}  // namespace gqmm

extern "C" {

int gqmm_get_num_threads(void) {
  try {
    return gqmm::get_num_threads();
  } catch (...) {  // GQMM_NUM_THREADS has a wrong value, which the first call of an operator reports
    return 1;
  }
}

int gqmm_set_num_threads(int threads) {
  try {
    gqmm::set_num_threads(threads);
    return 0;
  } catch (...) {
    return -1;
  }
}
}
