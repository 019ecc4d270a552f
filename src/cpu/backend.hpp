// The CPU backend: runs a Problem on the active instruction set.
#pragma once

#include "plan/problem.hpp"

namespace gqmm::cpu {

/// Writes problem.y. Expects a valid problem; throws std::bad_alloc only.
void run(const Problem& problem);

}  // namespace gqmm::cpu
