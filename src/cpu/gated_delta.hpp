// The gated delta rule on the CPU.
#pragma once

#include "plan/gated_delta_problem.hpp"

namespace gqmm::cpu {

/// Computes y and the next state. Throws as run of a Problem does (cpu/backend.hpp).
void gated_delta_update(const GatedDeltaProblem& problem);

}  // namespace gqmm::cpu
