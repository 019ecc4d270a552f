// Where long calls ask whether they should stop.
#pragma once

#include <gqmm/interrupt.hpp>

namespace gqmm {

/// Asks this thread's InterruptCheck, if there is one and it was not asked for 50 ms. Takes a few nanoseconds where it does not
/// ask. What the check throws is not caught.
[[nodiscard]] bool interrupted();

/// Throws Interrupted if the call should stop. For operators that compute on one thread.
void throw_if_interrupted();

}  // namespace gqmm
