// How long a thread that waits keeps its processor busy.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <ctime>

namespace gqmm::threads {

using Clock = std::chrono::steady_clock;

/// Decides how long idle threads spin before they sleep.
///
/// A spinning thread starts on its work within a microsecond, a sleeping one within 30 to 100. But spinning takes time from
/// others where processors are scarce: from the quota of the control group, or from another program's threads. A thread sees the
/// second case when the kernel takes its processor: more time has passed than it has computed. Scarce processors are better left
/// at once: a thread that has slept gets one quickly when it wakes, one that has spun has used up its turn.
class SpinPolicy {
 public:
  /// For a worker between two calls: callers that do other work for a millisecond or two between their calls find it awake.
  static constexpr std::chrono::microseconds between_calls{4000};
  /// For a thread that waits for others of the same call, which are about to finish.
  static constexpr std::chrono::microseconds within_call{200};
  /// The same where processors are scarce.
  static constexpr std::chrono::microseconds within_call_scarce{10};

  /// Says whether the group's quota is too small for all threads of the team to run all the time.
  void set_quota_is_tight(bool tight) { quota_is_tight_.store(tight, std::memory_order_relaxed); }

  [[nodiscard]] std::chrono::microseconds idle_time(Clock::time_point now) const {
    return scarce(now) ? std::chrono::microseconds(0) : between_calls;
  }
  [[nodiscard]] std::chrono::microseconds waiting_time(Clock::time_point now) const {
    return scarce(now) ? within_call_scarce : within_call;
  }

  /// Notes that a thread did not compute for `lost` although it wanted to; true if that was so long that another program must
  /// have had the processor. Threads then do not spin for a while, for a longer one each time.
  bool was_preempted(Clock::duration lost, Clock::time_point now) {
    if (lost < preempted_from) {
      return false;
    }
    const std::chrono::milliseconds pause(pause_ms_.load(std::memory_order_relaxed));
    scarce_until_.store((now + pause).time_since_epoch().count(), std::memory_order_relaxed);
    pause_ms_.store(std::min<std::int64_t>(2 * pause.count(), longest_pause.count()), std::memory_order_relaxed);
    undisturbed_.store(0, std::memory_order_relaxed);
    return true;
  }
  /// Notes that a thread has spun until there was work. After many times the next pause is short again.
  void found_work() {
    if (undisturbed_.fetch_add(1, std::memory_order_relaxed) == enough_undisturbed) {
      pause_ms_.store(shortest_pause.count(), std::memory_order_relaxed);
    }
  }

 private:
  // Interrupts and the hypervisor take some tens of microseconds, another program's turn at least some hundred.
  static constexpr std::chrono::microseconds preempted_from{300};
  static constexpr std::chrono::milliseconds shortest_pause{25};
  static constexpr std::chrono::milliseconds longest_pause{1600};
  static constexpr int enough_undisturbed = 200;

  [[nodiscard]] bool scarce(Clock::time_point now) const {
    return quota_is_tight_.load(std::memory_order_relaxed) ||
           now.time_since_epoch().count() < scarce_until_.load(std::memory_order_relaxed);
  }

  std::atomic<bool> quota_is_tight_{false};
  std::atomic<Clock::rep> scarce_until_{0};
  std::atomic<std::int64_t> pause_ms_{shortest_pause.count()};
  std::atomic<int> undisturbed_{0};
};

/// Measures how long the calling thread has had no processor although it did not sleep.
class LostTime {
 public:
  /// Starts, when the thread has woken up.
  void restart() {
    wall_ = Clock::now();
    computed_ = computed();
  }
  /// Since the start or the last call of this.
  Clock::duration take() {
    const Clock::time_point wall = wall_;
    const std::chrono::nanoseconds before = computed_;
    restart();
    return (wall_ - wall) - (computed_ - before);
  }

 private:
  static std::chrono::nanoseconds computed() {
    timespec time = {};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
  }

  Clock::time_point wall_;
  std::chrono::nanoseconds computed_{0};
};

/// A hint for the processor that a thread spins.
inline void pause_processor() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield" ::: "memory");
#endif
}

enum class Spun : std::uint8_t { done, timed_out, preempted };

/// Spins until `done()` or for `limit`.
template <class Done>
Spun spin(std::chrono::microseconds limit, SpinPolicy& policy, Done done) {
  constexpr int looks_between_times = 64;
  Clock::time_point last = Clock::now();
  const Clock::time_point end = last + limit;
  while (last < end) {
    for (int look = 0; look < looks_between_times; ++look) {
      if (done()) {
        return Spun::done;
      }
      pause_processor();
    }
    const Clock::time_point now = Clock::now();
    if (policy.was_preempted(now - last, now)) {
      return done() ? Spun::done : Spun::preempted;
    }
    last = now;
  }
  return done() ? Spun::done : Spun::timed_out;
}

}  // namespace gqmm::threads
