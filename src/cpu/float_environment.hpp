// The floating-point environment in which results are computed.
#pragma once

#include "threads/float_environment.hpp"

namespace gqmm::cpu {

/// Sets round-to-nearest with subnormals for its lifetime, and then restores what the caller had. Calls set it themselves; code
/// that computes between calls needs it too.
using threads::FloatEnvironment;

}  // namespace gqmm::cpu
