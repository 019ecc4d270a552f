#include "threads/interrupt.hpp"

#include <ctime>

#include <cstdint>
#include <utility>

namespace gqmm::threads {
namespace {

// A person who presses Ctrl-C should see the effect within a tenth of a second.
constexpr std::int64_t asked_every_ns = 50'000'000;

thread_local const InterruptCheck* current = nullptr;
thread_local std::int64_t next_time_ns = 0;

/// A clock that is cheap to read. It is exact to some milliseconds.
std::int64_t coarse_time_ns() {
#if defined(CLOCK_MONOTONIC_COARSE)
  constexpr clockid_t clock = CLOCK_MONOTONIC_COARSE;
#else
  constexpr clockid_t clock = CLOCK_MONOTONIC;
#endif
  timespec now = {};
  clock_gettime(clock, &now);
  return std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

/// The time during which a check is asked. Operators that the check calls meanwhile do not ask it again.
class Asking {
 public:
  explicit Asking(const InterruptCheck* check) : check_(check) { current = nullptr; }
  ~Asking() {
    current = check_;
    next_time_ns = coarse_time_ns() + asked_every_ns;
  }
  Asking(const Asking&) = delete;
  Asking& operator=(const Asking&) = delete;

 private:
  const InterruptCheck* check_;
};

}  // namespace

bool interrupted() {
  const InterruptCheck* check = current;
  if (check == nullptr || coarse_time_ns() < next_time_ns) {
    return false;
  }
  const Asking asking(check);
  return check->stop_();
}

void throw_if_interrupted() {
  if (interrupted()) {
    throw Interrupted();
  }
}

}  // namespace gqmm::threads

namespace gqmm {

Interrupted::Interrupted() : std::runtime_error("[gqmm] the call was interrupted; its result is not complete") {}

InterruptCheck::InterruptCheck(std::function<bool()> stop) : stop_(std::move(stop)), outer_(threads::current) {
  threads::current = this;
  threads::next_time_ns = threads::coarse_time_ns() + threads::asked_every_ns;
}

InterruptCheck::~InterruptCheck() { threads::current = outer_; }

}  // namespace gqmm
