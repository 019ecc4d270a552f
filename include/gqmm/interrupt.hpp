// How a program gives up a long call.
#pragma once

#include <gqmm/export.hpp>

#include <functional>
#include <stdexcept>

namespace gqmm {

/// What an operator throws when its thread's InterruptCheck asked it to stop. The contents of its result are then unspecified; no
/// thread works on it any more.
class GQMM_API Interrupted : public std::runtime_error {
 public:
  Interrupted();
};

/// While it lives, every operator that this thread calls asks `stop` about every 50 ms, on this thread, whether it should give
/// up. A check inside the life of another one replaces it until it ends.
///
/// `stop` may call operators itself. What it throws leaves the operator that asked.
class GQMM_API InterruptCheck {
 public:
  explicit InterruptCheck(std::function<bool()> stop);
  ~InterruptCheck();
  InterruptCheck(const InterruptCheck&) = delete;
  InterruptCheck& operator=(const InterruptCheck&) = delete;

 private:
  std::function<bool()> stop_;
  const InterruptCheck* outer_;

  friend bool interrupted();
};

}  // namespace gqmm
