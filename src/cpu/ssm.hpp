// The recurrence of state space models on the CPU.
#pragma once

#include "plan/ssm_problem.hpp"

namespace gqmm::cpu {

/// Computes y and the next state. Throws as run of a Problem does (cpu/backend.hpp).
void ssm_update(const SsmProblem& problem);

}  // namespace gqmm::cpu
