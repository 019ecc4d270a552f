// How long a waiting thread spins, which means that it keeps its processor busy, before it sleeps.
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
/// A spinning thread starts its work within a microsecond, and a sleeping one within 30 to 100. But spinning takes time from
/// others if processors are scarce. The time comes from the quota of the control group, or from the threads of another program.
///
/// A thread notices the second case when the kernel takes its processor away: more time has passed than the thread has computed.
/// Then it is better to sleep at once. A thread that has slept gets a processor quickly when it wakes. A thread that has spun has
/// used up its turn.
class SpinPolicy {
 public:
  /// How long a worker spins between two calls. A caller that does other work for a millisecond or two between its calls finds
  /// the worker awake.
  static constexpr std::chrono::microseconds between_calls{4000};
  /// How long a thread spins while it waits for other threads of the same call, which are about to finish.
  static constexpr std::chrono::microseconds within_call{200};
  /// The same time if processors are scarce.
  static constexpr std::chrono::microseconds within_call_scarce{10};

  /// Sets whether the quota of the control group is too small for all threads of the team to run all the time.
  void set_quota_is_tight(bool tight) { quota_is_tight_.store(tight, std::memory_order_relaxed); }

  [[nodiscard]] std::chrono::microseconds idle_time(Clock::time_point now) const {
    return scarce(now) ? std::chrono::microseconds(0) : between_calls;
  }
  [[nodiscard]] std::chrono::microseconds waiting_time(Clock::time_point now) const {
    return scarce(now) ? within_call_scarce : within_call;
  }

  /// Notes that a thread had no processor for the time `lost`, although it did not sleep. Returns true if that was so long that
  /// another program must have had the processor. Then threads do not spin for a while, and each such pause is longer than the
  /// one before.
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
  /// Notes that a thread has spun until there was work. After many such successes the next pause is short again.
  void found_work() {
    if (undisturbed_.fetch_add(1, std::memory_order_relaxed) == enough_undisturbed) {
      pause_ms_.store(shortest_pause.count(), std::memory_order_relaxed);
    }
  }

 private:
  // Interrupts and the hypervisor take the processor for some tens of microseconds, and another program for some hundreds.
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
  /// Starts the measurement. A thread calls this when it has woken up.
  void restart() {
    wall_ = Clock::now();
    computed_ = computed();
  }
  /// The time lost since restart() or since the last call of this function.
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

/// Tells the processor that the thread spins, so that it saves power and leaves resources to the core's other thread.
inline void pause_processor() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield" ::: "memory");
#endif
}

enum class SpinResult : std::uint8_t { done, timed_out, preempted };

/// Spins until `done()` is true, until `limit` has passed, or until the thread loses its processor. Returns which of these came
/// first.
template <class Done>
SpinResult spin(std::chrono::microseconds limit, SpinPolicy& policy, Done done) {
  constexpr int checks_between_clock_reads = 64;
  Clock::time_point last = Clock::now();
  const Clock::time_point end = last + limit;
  while (last < end) {
    for (int check = 0; check < checks_between_clock_reads; ++check) {
      if (done()) {
        return SpinResult::done;
      }
      pause_processor();
    }
    const Clock::time_point now = Clock::now();
    if (policy.was_preempted(now - last, now)) {
      return done() ? SpinResult::done : SpinResult::preempted;
    }
    last = now;
  }
  return done() ? SpinResult::done : SpinResult::timed_out;
}

}  // namespace gqmm::threads
