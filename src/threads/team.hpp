// The process's team of threads, and how a call computes on it.
//
//     caller:   lease ── publish the call ── work ── close ── wait for those who joined
//     worker:   ……… spin, then sleep ……… join ── work ── leave ……… spin, then sleep ………
//
// A call's work is a list of steps, and each step a list of items that are cut into shares (work_shares.hpp). Whoever is there
// takes items, so a call never waits for a worker that did not come: asleep, without a processor, or never created. It waits only
// for items that somebody has begun.
//
// There is one team. A call that finds it taken computes alone, and so does a call inside a parallel region of another library.
// Where more callers come than processors are left, workers leave a call between two items; the caller does what they leave.
#pragma once

#include "threads/work_shares.hpp"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <span>
#include <utility>

namespace gqmm::threads {

class Team;

/// A step of a call: the items 0 … count − 1, in any order and on any thread.
class Step {
 public:
  /// `threads`: of the call, each of which gets a share of about equal cost. `work(item, next)`: `next` is where this thread is
  /// likely to go on, or WorkShares::none. Throws std::length_error from 2^31 items on.
  template <class Cost>
  Step(std::int64_t count, int threads, Cost cost, std::function<void(std::int64_t item, std::int64_t next)> work)
      : shares_(count, threads, cost), count_(count), work_(std::move(work)) {}

  /// Takes items, the thread's own first, while `may_go_on()`. Returns how many it has finished.
  template <class MayGoOn>
  std::int64_t drain(int thread, MayGoOn may_go_on) {
    std::int64_t done = 0;
    shares_.drain(
        thread,
        [&](std::int64_t item, std::int64_t next) {
          work_(item, next);
          ++done;
        },
        may_go_on);
    return done;
  }
  /// Counts finished items; true if these were the last.
  bool finish(std::int64_t items) { return items != 0 && finished_.fetch_add(items) + items == count_; }
  [[nodiscard]] bool finished() const { return finished_.load() == count_; }

 private:
  WorkShares shares_;
  std::int64_t count_;
  std::function<void(std::int64_t item, std::int64_t next)> work_;
  std::atomic<std::int64_t> finished_{0};
};

/// The threads of one call, from its planning to its end.
class TeamCall {
 public:
  /// Takes the team for up to `wanted` threads, the caller's included. `worth_several`: the call is large enough to count as one
  /// of those among which the processors are divided, also if it wants one thread.
  explicit TeamCall(int wanted, bool worth_several = false);
  ~TeamCall();
  TeamCall(const TeamCall&) = delete;
  TeamCall& operator=(const TeamCall&) = delete;

  /// Threads that the call is planned for, at least 1. Fewer may come.
  [[nodiscard]] int threads() const { return threads_; }
  /// Plans for fewer threads where there are fewer items.
  void use_at_most(std::int64_t items) { threads_ = static_cast<int>(std::clamp<std::int64_t>(items, 1, threads_)); }

  /// Runs each step, which has a share for each of threads(), to its end before the next. Every thread computes in the default
  /// floating-point environment.
  ///
  /// When an item throws, no further item begins, and the first exception is thrown again here. Throws Interrupted if this
  /// thread's InterruptCheck asked to stop. Nothing runs any more when this returns or throws.
  void run(std::span<Step* const> steps);

 private:
  Team* team_ = nullptr;  // nullptr: a call that does not count
  bool leads_ = false;    // it has the team
  int threads_ = 1;
  unsigned forks_;  // before the call, so that a forked child is told apart
};

}  // namespace gqmm::threads
