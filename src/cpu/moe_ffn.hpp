// The feed-forward layer of a mixture of experts on the CPU, as one call.
#pragma once

#include "plan/moe_problem.hpp"

namespace gqmm::cpu {

/// Throws as run of a Problem does (cpu/backend.hpp). No extent may be 0, but k may if there are shared experts.
void run(const MoeProblem& problem);

}  // namespace gqmm::cpu
