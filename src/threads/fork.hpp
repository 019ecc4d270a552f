// Locks that a child process finds free.
#pragma once

#include <mutex>

namespace gqmm::threads {

/// A mutex for a global object. A process that forks takes all of these first, so no other thread holds one at that moment, and
/// the child finds each of them free and what they guard whole.
///
/// A thread holds at most one of them at a time. Otherwise a fork, which takes them in an order of its own, could wait for ever.
class ForkSafeMutex {
 public:
  constexpr ForkSafeMutex() noexcept = default;
  ForkSafeMutex(const ForkSafeMutex&) = delete;
  ForkSafeMutex& operator=(const ForkSafeMutex&) = delete;

  void lock() { mutex_.lock(); }
  void unlock() { mutex_.unlock(); }

  /// Tells the fork handlers about a mutex. Each global mutex has one of these beside it.
  class Registration {
   public:
    explicit Registration(ForkSafeMutex& mutex) noexcept;
  };

  static void lock_all();
  static void unlock_all();

 private:
  std::mutex mutex_;
  ForkSafeMutex* next_ = nullptr;  // of the registered ones
};

}  // namespace gqmm::threads
