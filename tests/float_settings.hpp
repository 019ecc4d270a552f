// Settings of the floating-point environment that a caller may have made, and that must not reach any result.
#pragma once

#include "threads/float_environment.hpp"

namespace gqmm {

#if defined(__x86_64__)
inline constexpr threads::FloatControl flush_to_zero = 0x9fc0;  // FTZ and DAZ
inline constexpr threads::FloatControl round_down = 0x3f80;
inline constexpr threads::FloatControl round_towards_zero = 0x7f80;
inline constexpr threads::FloatControl sticky_flags = 0x3f;  // raised by any inexact operation; not a setting
#elif defined(__aarch64__)
inline constexpr threads::FloatControl flush_to_zero = 7U << 24;  // FZ, and default NaNs and alternative half precision (DN, AHP)
inline constexpr threads::FloatControl round_down = 2U << 22;
inline constexpr threads::FloatControl round_towards_zero = 3U << 22;
inline constexpr threads::FloatControl sticky_flags = 0;
#endif

/// Makes a setting for one scope.
class CallersSetting {
 public:
  explicit CallersSetting(threads::FloatControl setting) : saved_(threads::float_control()) {
    threads::set_float_control(setting);
  }
  ~CallersSetting() { threads::set_float_control(saved_); }
  CallersSetting(const CallersSetting&) = delete;
  CallersSetting& operator=(const CallersSetting&) = delete;

 private:
  threads::FloatControl saved_;
};

}  // namespace gqmm
