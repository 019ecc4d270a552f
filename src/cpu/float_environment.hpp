// A thread that has loaded a library built with -ffast-math flushes subnormals to zero, and others round towards zero. Results
// must not depend on who calls: each worker of each call runs in this scope.
#pragma once

#include <cfenv>
#include <cstdint>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace gqmm::cpu {

#if defined(__x86_64__)

/// MXCSR: round to nearest, subnormals kept, exceptions masked.
using FloatControl = unsigned;
inline constexpr FloatControl default_float_control = 0x1f80;
inline FloatControl float_control() { return _mm_getcsr(); }
inline void set_float_control(FloatControl control) { _mm_setcsr(control); }

#elif defined(__aarch64__)

/// FPCR: round to nearest, subnormals kept, NaN payloads kept, IEEE half precision, no traps. (fesetenv(FE_DFL_ENV) leaves
/// half precision and NaNs as they are.)
using FloatControl = std::uint64_t;
inline constexpr FloatControl default_float_control = 0;
inline FloatControl float_control() {
  FloatControl control;
  asm volatile("mrs %0, fpcr" : "=r"(control)::"memory");
  return control;
}
inline void set_float_control(FloatControl control) { asm volatile("msr fpcr, %0" ::"r"(control) : "memory"); }

#else

/// The rounding mode: a processor that can flush subnormals needs a case of its own here.
using FloatControl = int;
inline constexpr FloatControl default_float_control = FE_TONEAREST;
inline FloatControl float_control() { return std::fegetround(); }
inline void set_float_control(FloatControl control) { std::fesetround(control); }

#endif

/// The default environment; restores the thread's own at the end.
class FloatEnvironment {
 public:
  FloatEnvironment() : saved_(float_control()) { set_float_control(default_float_control); }
  ~FloatEnvironment() { set_float_control(saved_); }
  FloatEnvironment(const FloatEnvironment&) = delete;
  FloatEnvironment& operator=(const FloatEnvironment&) = delete;

 private:
  FloatControl saved_;
};

}  // namespace gqmm::cpu
