// The teams of threads of the process, and how a call computes on one.
//
//     caller:   lease ── publish the call ── work ── close ── wait for the workers that joined
//     worker:   ……… spin, then sleep ……… join ── work ── leave ……… spin, then sleep ………
//
// The work of a call is a list of phases. Each phase is a list of items that are divided into shares (work_shares.hpp). Every
// thread that is present takes items. So a call never waits for a worker that is asleep, has no processor or could not be
// created. It waits only for items that another thread has begun.
//
// There is one team for calls that are bound to no memory node, and one for each node that calls were bound to
// (node_binding.hpp). A call that finds its team leased computes alone. A call inside a parallel region of another library
// computes alone too. If there are more callers than processors, workers leave a call between two items, and the caller computes
// the items that they leave.
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

/// A phase of a call. It has the items 0 … count − 1, which may run in any order and on any thread.
class Phase {
 public:
  /// Divides the items into a share of about equal cost for each of the call's `threads`. `work(item, next)` computes an item.
  /// `next` is the item that this thread probably takes next, or WorkShares::none. Throws std::length_error if there are 2^31
  /// items or more.
  template <class Cost>
  Phase(std::int64_t count, int threads, const Cost& cost, std::function<void(std::int64_t item, std::int64_t next)> work)
      : shares_(count, threads, cost), count_(count), work_(std::move(work)) {}

  /// Computes items, those of the thread's own share first, while `may_go_on()` is true. Returns how many items it has finished.
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
  /// Counts finished items. Returns true if these were the last of the phase.
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
  /// Leases the team of the calling thread's memory node, or that of the process, for up to `wanted` threads, the caller's
  /// included. `worth_several` says that the work of the call is worth several threads. Such a call counts when the processors
  /// are divided among callers, even if it wants a single thread.
  explicit TeamCall(int wanted, bool worth_several = false);
  ~TeamCall();
  TeamCall(const TeamCall&) = delete;
  TeamCall& operator=(const TeamCall&) = delete;

  /// The number of threads that the call is planned for, at least 1. Fewer may take part.
  [[nodiscard]] int threads() const { return threads_; }
  /// Plans the call for fewer threads if there are fewer items.
  void use_at_most(std::int64_t items) { threads_ = static_cast<int>(std::clamp<std::int64_t>(items, 1, threads_)); }

  /// Runs the phases one after another. A phase begins when the one before has ended. Each phase must have a share for each of
  /// threads(). Every thread computes in the default floating-point environment.
  ///
  /// When an item throws, no further item begins, and this function throws the first exception again. It throws Interrupted if
  /// this thread's InterruptCheck asked to stop. When it returns or throws, no item runs any more.
  void run(std::span<Phase* const> phases);

 private:
  Team* team_ = nullptr;  // nullptr if the call does not count among the callers
  bool leads_ = false;    // true if the call has leased the team
  int threads_ = 1;
  unsigned forks_;  // the number of forks before the call, by which a forked child is recognized
};

}  // namespace gqmm::threads
