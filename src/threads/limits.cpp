#include "threads/limits.hpp"

#include "threads/cgroup_quota.hpp"
#include "threads/fork.hpp"
#include "threads/node_binding.hpp"
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

// The quota and the loaded OpenMP runtimes are read from files of the system. That takes too long for each call, so they are kept
// for a while.
constexpr std::chrono::seconds lookup_lifetime{1};

// The result of the last lookup.
struct Lookup {
  bool valid = false;
  Clock::time_point time;
  std::optional<double> quota;
  ProcessorSet thread;  // the affinity mask of the thread that asked last
  ProcessorSet before_binding;
};
constinit Lookup last_lookup;
// The affinity mask that the calling thread had when it asked last. It is empty before the first time.
constinit thread_local ProcessorSet mask_of_last_call;
constinit ForkSafeMutex lookup_mutex;
const ForkSafeMutex::Registration lookup_mutex_registration(lookup_mutex);

// The number that set_num_threads was called with, or 0 if there was no call.
constinit std::atomic<int> chosen{0};

constexpr int no_limit = Stream::max_threads;

int rounded_up(const std::optional<double>& quota) {
  return quota ? static_cast<int>(std::clamp(std::ceil(*quota), 1.0, static_cast<double>(no_limit))) : no_limit;
}

/// The environment variables for threads. Operators read them once, at the first call, because a program may change its
/// environment later on any thread.
struct ThreadVariables {
  std::optional<int> gqmm_num_threads;
  OmpNumThreads omp_num_threads;

  static ThreadVariables read() {
    return {parse_gqmm_num_threads(std::getenv("GQMM_NUM_THREADS")), parse_omp_num_threads(std::getenv("OMP_NUM_THREADS"))};
  }
  [[nodiscard]] int limit() const { return gqmm_num_threads.value_or(omp_num_threads.threads.value_or(no_limit)); }
};

int environment_limit() {
  constinit static std::atomic<int> limit{0};
  int found = limit.load(std::memory_order_relaxed);
  if (found == 0) {
    found = ThreadVariables::read().limit();  // all threads that get here read the same values
    limit.store(found, std::memory_order_relaxed);
  }
  return found;
}

}  // namespace

int Processors::count() const { return std::max(1, std::min(set.count(), rounded_up(quota))); }

Processors usable_processors() {
  if (const std::optional<Processors> of_node = NodeBinding::processors()) {
    return *of_node;
  }
  const ProcessorSet thread = ProcessorSet::of_thread();
  const Clock::time_point now = Clock::now();
  std::unique_lock lock(lookup_mutex);
  const bool fresh = last_lookup.valid && now - last_lookup.time < lookup_lifetime;
  Lookup found = last_lookup;
  lock.unlock();
  // If the mask differs from the last one of this thread, an OpenMP runtime that has just been loaded may have set it.
  const bool same_mask = (mask_of_last_call.count() == 0 ? found.thread : mask_of_last_call) == thread;
  mask_of_last_call = thread;
  if (fresh && found.thread == thread) {
    return {found.before_binding, found.quota};
  }
  if (!fresh || !same_mask) {
    find_openmp_runtimes();
  }
  if (!fresh) {
    found.quota = cgroup_quota();
    found.time = now;
    found.valid = true;
  }
  found.thread = thread;
  found.before_binding = processors_before_binding(thread).value_or(thread);
  lock.lock();
  last_lookup = found;
  return {found.before_binding, found.quota};
}

void check_environment() { static_cast<void>(environment_limit()); }

int ThreadLimits::threads() const {
  const int environment = gqmm_num_threads.value_or(omp_num_threads.threads.value_or(no_limit));
  return std::max(1, std::min({affinity, rounded_up(cgroup_quota), environment}));
}

ThreadLimits thread_limits() {
  const ThreadVariables environment = ThreadVariables::read();
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
  if (chosen > 0 && !threads::NodeBinding::node()) {
    return chosen;
  }
  // A number that was chosen for all processors may be more than a single node grants.
  return std::min(chosen > 0 ? chosen : limit, threads::usable_processors().count());
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
  } catch (...) {  // GQMM_NUM_THREADS has a wrong value, and the first call of an operator reports it
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
