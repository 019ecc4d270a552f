// Tests of a system that refuses to create a thread, or has no memory for one.
#include "threads/forked_child.hpp"
#include "threads/team.hpp"

#include <gtest/gtest.h>
#include <pthread.h>
#include <sys/resource.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <system_error>
#include <thread>

namespace gqmm::threads {
namespace {

constexpr int items = 100;

/// The number of threads that a call gets which asks for eight, or −1 if it did not do its work.
int threads_of_a_call() {
  TeamCall call(8);
  std::atomic<int> done{0};
  Phase phase(items, call.threads(), [](std::int64_t) { return 1; }, [&](std::int64_t, std::int64_t) { ++done; });
  call.run(std::array{&phase});
  return done == items ? call.threads() : -1;
}

bool limit(int resource, rlim_t value) {
  rlimit limits = {};
  getrlimit(static_cast<__rlimit_resource_t>(resource), &limits);
  limits.rlim_cur = value;
  return setrlimit(static_cast<__rlimit_resource_t>(resource), &limits) == 0;
}

constexpr uid_t nobody = 65534;

TEST(ScarceResources, ACallRunsOnTheCallerAloneIfNoThreadCanBeCreated) {
  EXPECT_EQ(status_of_child([] {
              // The limit does not hold for root.
              if ((getuid() == 0 && setuid(nobody) != 0) || !limit(RLIMIT_NPROC, 0)) {
                return 90;
              }
              return threads_of_a_call();
            }),
            1);
}

TEST(ScarceResources, ACallRunsOnTheThreadsThatCouldBeCreated) {
  const int threads = status_of_child([] {
    if (getuid() == 0 && setuid(nobody) != 0) {
      return 90;
    }
    // The threads of other processes of this user count too. So the limit that lets just two more threads start is found by
    // trial.
    for (rlim_t most = 1; most < 2000; ++most) {
      if (!limit(RLIMIT_NPROC, most)) {
        return 91;
      }
      try {
        std::thread([] {}).join();
      } catch (const std::system_error&) {
        continue;
      }
      return limit(RLIMIT_NPROC, most + 1) ? threads_of_a_call() : 92;
    }
    return 93;
  });
  EXPECT_EQ(threads, 3) << "two workers";
}

TEST(ScarceResources, ACallRunsOnTheCallerAloneIfThereIsNoMemoryForAStack) {
#ifdef GQMM_SANITIZED
  GTEST_SKIP() << "a sanitizer's memory cannot be limited";
#endif
  EXPECT_EQ(status_of_child([] {
              // There is room for small objects but not for a stack. Threads of earlier tests have left stacks of the usual size.
              pthread_attr_t attributes;
              if (pthread_attr_init(&attributes) != 0 || pthread_attr_setstacksize(&attributes, std::size_t{64} << 20) != 0 ||
                  pthread_setattr_default_np(&attributes) != 0) {
                return 89;
              }
              std::size_t pages = 0;
              std::FILE* file = std::fopen("/proc/self/statm", "r");
              if (file == nullptr || std::fscanf(file, "%zu", &pages) != 1) {
                return 90;
              }
              std::fclose(file);
              const rlim_t used = pages * static_cast<rlim_t>(sysconf(_SC_PAGESIZE));
              return limit(RLIMIT_AS, used + (rlim_t{2} << 20)) ? threads_of_a_call() : 91;
            }),
            1);
}

}  // namespace
}  // namespace gqmm::threads
