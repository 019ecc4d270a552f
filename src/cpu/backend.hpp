// The CPU backend: runs a Problem on the active instruction set.
#pragma once

#include "plan/problem.hpp"

#include <cstdint>

namespace gqmm::cpu {

/// The most threads that so many multiply-adds are worth: waking one more would cost more than it saves.
std::int64_t threads_worth(double multiply_adds);

/// Writes problem.y. Expects a valid problem; throws std::bad_alloc only.
void run(const Problem& problem);

}  // namespace gqmm::cpu
