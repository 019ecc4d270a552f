// The floating-point environment in which every thread of a call computes.
//
// The result of a call must not depend on the thread that makes it. But the caller's thread may flush subnormals to zero, for
// example after it loaded a library that was built with -ffast-math. It may also round in another direction.
#pragma once

#include <cfenv>
#include <cstdint>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace gqmm::threads {

#if defined(__x86_64__)

/// The value of MXCSR. The default rounds to nearest, keeps subnormals and masks all exceptions.
using FloatControl = unsigned;
inline constexpr FloatControl default_float_control = 0x1f80;
inline FloatControl float_control() { return _mm_getcsr(); }
inline void set_float_control(FloatControl control) { _mm_setcsr(control); }

#elif defined(__aarch64__)

/// The value of FPCR. The default rounds to nearest, keeps subnormals and NaN payloads, uses IEEE half precision and has no
/// traps. fesetenv(FE_DFL_ENV) is not enough, because it does not change half precision and NaNs.
using FloatControl = std::uint64_t;
inline constexpr FloatControl default_float_control = 0;
inline FloatControl float_control() {
  FloatControl control;
  asm volatile("mrs %0, fpcr" : "=r"(control)::"memory");
  return control;
}
inline void set_float_control(FloatControl control) { asm volatile("msr fpcr, %0" ::"r"(control) : "memory"); }

#else

/// The rounding mode. A processor that can flush subnormals to zero needs a case of its own here.
using FloatControl = int;
inline constexpr FloatControl default_float_control = FE_TONEAREST;
inline FloatControl float_control() { return std::fegetround(); }
inline void set_float_control(FloatControl control) { std::fesetround(control); }

#endif

/// Sets the default environment for the calling thread. The destructor restores the thread's own.
class FloatEnvironment {
 public:
  FloatEnvironment() : saved_(float_control()) { set_float_control(default_float_control); }
  ~FloatEnvironment() { set_float_control(saved_); }
  FloatEnvironment(const FloatEnvironment&) = delete;
  FloatEnvironment& operator=(const FloatEnvironment&) = delete;

 private:
  FloatControl saved_;
};

}  // namespace gqmm::threads
