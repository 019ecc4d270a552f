// Attention on the CPU.
#pragma once

#include "plan/attention_problem.hpp"

namespace gqmm::cpu {

/// Computes y of the problem. Throws as run of a Problem does (cpu/backend.hpp).
void attend(const AttentionProblem& problem);

}  // namespace gqmm::cpu
