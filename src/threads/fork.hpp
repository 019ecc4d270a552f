// Mutexes that are free in a child process after a fork.
#pragma once

#include <mutex>

namespace gqmm::threads {

/// A mutex for a global object. A process that forks locks all of these mutexes first. So no other thread holds one at that
/// moment. In the child each mutex is free, and the object that it guards is complete.
///
/// A thread holds at most one of these mutexes at a time. Otherwise the fork could wait for ever, because it locks them in an
/// order of its own.
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
  ForkSafeMutex* next_ = nullptr;  // in the list of registered mutexes
};

}  // namespace gqmm::threads
