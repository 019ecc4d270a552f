// Stopping a long call early.
#pragma once

#include <gqmm/export.hpp>

#include <functional>
#include <stdexcept>

namespace gqmm::threads {
/// For the library itself: whether this thread's InterruptCheck asks to stop.
bool interrupted();
}  // namespace gqmm::threads

namespace gqmm {

/// The exception that an operator throws when its thread's InterruptCheck asked it to stop. The contents of the operator's result
/// are then unspecified, and no thread works on it any more.
class GQMM_API Interrupted : public std::runtime_error {
 public:
  Interrupted();
};

/// While an InterruptCheck lives, every operator that its thread calls asks `stop` whether it should give up. It asks about every
/// 50 ms, on the same thread. An InterruptCheck that is made inside the life of another one replaces it until it is destroyed. It
/// affects no other thread.
///
/// `stop` may call operators itself. An exception of `stop` leaves the operator that asked. Destroy the object on the thread that
/// made it.
class GQMM_API InterruptCheck {
 public:
  /// Starts the checks. `stop` returns true if the operator should give up.
  explicit InterruptCheck(std::function<bool()> stop);
  ~InterruptCheck();
  InterruptCheck(const InterruptCheck&) = delete;
  InterruptCheck& operator=(const InterruptCheck&) = delete;

 private:
  std::function<bool()> stop_;
  const InterruptCheck* outer_;

  friend bool threads::interrupted();
};

}  // namespace gqmm
