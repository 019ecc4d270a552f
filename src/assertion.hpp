// Assertions of what callers inside the library promise. Arguments of users are validated in src/api instead.
#pragma once

namespace gqmm::detail {

/// Prints the condition with its place in the source, and ends the process.
[[noreturn]] void assertion_failed(const char* condition, const char* file, int line) noexcept;

}  // namespace gqmm::detail

/// Ends the process if the condition is false, in builds with GQMM_ASSERTIONS (CMake option; presets asan and tsan). In all
/// others the condition is compiled and never evaluated, so it costs nothing.
#ifdef GQMM_ASSERTIONS
#define GQMM_ASSERT(...) \
  (static_cast<bool>(__VA_ARGS__) ? static_cast<void>(0) : ::gqmm::detail::assertion_failed(#__VA_ARGS__, __FILE__, __LINE__))
#else
#define GQMM_ASSERT(...) static_cast<void>(sizeof(static_cast<bool>(__VA_ARGS__)))
#endif
