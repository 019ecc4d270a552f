// Global values that are made at their first use.
#pragma once

#include <atomic>

namespace gqmm::threads {

/// Holds a value that is made at its first use and is never destroyed.
///
/// It is used in place of a static local variable for two reasons. A process may fork while another thread initialises such a
/// variable, and the child would then wait for that thread for ever. And threads may still compute while the process destroys its
/// static objects. Several threads may each make a value at the same time. Then the first value is kept.
template <class T>
class FirstUse {
 public:
  constexpr FirstUse() noexcept = default;
  FirstUse(const FirstUse&) = delete;
  FirstUse& operator=(const FirstUse&) = delete;

  /// Returns the value. If there is none yet, `make()` returns a new one.
  template <class Make>
  T& get(Make make) {
    T* value = value_.load(std::memory_order_acquire);
    if (value == nullptr) {
      T* const made = new T(make());
      if (value_.compare_exchange_strong(value, made, std::memory_order_acq_rel)) {
        return *made;
      }
      delete made;
    }
    return *value;
  }

  /// True if a value has been made.
  [[nodiscard]] bool exists() const { return value_.load(std::memory_order_acquire) != nullptr; }

 private:
  std::atomic<T*> value_{nullptr};
};

}  // namespace gqmm::threads
