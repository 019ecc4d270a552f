// Divides the items of a phase among the threads of a call. Each thread has a contiguous share, and steals from others when its
// own share is empty.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <limits>
#include <span>
#include <stdexcept>
#include <vector>

namespace gqmm::threads {

/// The items 0 … count − 1, divided into one share for each thread of a call. A thread takes the items of its own share from the
/// front, in order. So it knows which weights it needs next, and what it has read stays in its cache. When its share is empty,
/// the thread takes items from the back of the share that has most items left.
class WorkShares {
 public:
  /// Makes shares of about equal cost. cost(item) must be positive. Throws std::length_error if there are 2^31 items or more.
  template <class Cost>
  WorkShares(std::int64_t count, int shares, const Cost& cost);
  WorkShares(const WorkShares&) = delete;
  WorkShares& operator=(const WorkShares&) = delete;
  /// Calls work(item, next) until no share has an item left, or until may_go_on() is false. may_go_on() is asked before each
  /// item. `next` is the item that this thread probably takes next, or none.
  template <class Work, class MayGoOn>
  void drain(int own, Work work, MayGoOn may_go_on);

  static constexpr std::int64_t none = -1;

 private:
  /// The items [first, last) of a share. Both ends are in a single word, because two threads may move them at the same time.
  class alignas(64) Share {
   public:
    void reset(std::int64_t first, std::int64_t last) { ends_ = first << 32 | last; }
    [[nodiscard]] std::int64_t left() const { return left(ends_.load(std::memory_order_relaxed)); }
    std::int64_t take_first() {
      return take([](std::int64_t ends) { return ends + (std::int64_t{1} << 32); }, [](std::int64_t ends) { return ends >> 32; });
    }
    std::int64_t take_last() {
      return take([](std::int64_t ends) { return ends - 1; }, [](std::int64_t ends) { return (ends & low) - 1; });
    }

   private:
    static constexpr std::int64_t low = 0xffffffff;
    static std::int64_t left(std::int64_t ends) { return (ends & low) - (ends >> 32); }

    template <class Less, class Taken>
    std::int64_t take(Less less, Taken taken) {
      std::int64_t ends = ends_.load(std::memory_order_relaxed);
      while (left(ends) > 0) {
        if (ends_.compare_exchange_weak(ends, less(ends), std::memory_order_relaxed)) {
          return taken(ends);
        }
      }
      return none;
    }

    std::atomic<std::int64_t> ends_{0};
  };

  Share only_;  // the share of a call on one thread, so that a small call does not allocate
  std::vector<Share> several_;
  std::span<Share> shares_;
};

template <class Cost>
WorkShares::WorkShares(std::int64_t count, int shares, const Cost& cost)
    : several_(shares > 1 ? static_cast<std::size_t>(shares) : 0),
      shares_(shares > 1 ? std::span<Share>(several_) : std::span<Share>(&only_, 1)) {
  constexpr std::int64_t max_items = std::numeric_limits<std::int32_t>::max();
  if (count > max_items) {
    throw std::length_error(fmt::format(
        "[gqmm] the call has {} items of work, and {} is the limit; split it into calls with fewer rows", count, max_items));
  }
  if (shares == 1) {
    only_.reset(0, count);
    return;
  }
  std::int64_t total = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    total += cost(i);
  }
  std::int64_t first = 0;
  std::int64_t spent = 0;
  for (int share = 0; share < shares; ++share) {
    std::int64_t last = first;
    // An item belongs to the share in which its middle lies.
    for (; last < count && (share == shares - 1 || (2 * spent + cost(last)) * shares < 2 * total * (share + 1)); ++last) {
      spent += cost(last);
    }
    shares_[static_cast<std::size_t>(share)].reset(first, last);
    first = last;
  }
}

template <class Work, class MayGoOn>
void WorkShares::drain(int own, Work work, MayGoOn may_go_on) {
  Share& mine = shares_[static_cast<std::size_t>(own)];
  while (mine.left() > 0 && may_go_on()) {
    if (const std::int64_t i = mine.take_first(); i != none) {
      work(i, mine.left() > 0 ? i + 1 : none);
    }
  }
  const auto fullest = [this]() -> Share& {
    return *std::max_element(shares_.begin(), shares_.end(), [](const Share& a, const Share& b) { return a.left() < b.left(); });
  };
  for (Share* other = &fullest(); other->left() > 0 && may_go_on(); other = &fullest()) {
    if (const std::int64_t i = other->take_last(); i != none) {
      work(i, other->left() > 0 ? i - 1 : none);
    }
  }
}

}  // namespace gqmm::threads
