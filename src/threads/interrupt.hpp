// The functions by which long calls ask whether they should stop.
#pragma once

#include <gqmm/interrupt.hpp>

#include <cstdint>

namespace gqmm::threads {

/// A loop over the elements of a row asks once in so many elements, because a row may be long. The number is a multiple of every
/// group size.
inline constexpr std::int64_t elements_between_questions = std::int64_t{1} << 15;

/// Asks this thread's InterruptCheck whether the call should stop. The check is asked at most once in 50 ms. Otherwise, and if
/// there is no check, the function returns false within a few nanoseconds. An exception of the check is not caught.
[[nodiscard]] bool interrupted();

/// Throws Interrupted if the call should stop. This has an effect on the caller's thread alone, because the workers of the team
/// have no check.
void throw_if_interrupted();

}  // namespace gqmm::threads
