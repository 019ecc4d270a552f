// The gradients of a product on the active instruction set. docs/reference/numerics.md gives the order of their sums.
#pragma once

#include "plan/gradient_problem.hpp"

namespace gqmm::cpu {

/// Writes every gradient that the problem wants. Expects a valid problem. Throws what run() of a product throws.
void run(const GradientProblem& problem);

/// The parts: the gradient of x, and those of the weights, from one pass over all rows.
void run_input_gradient(const GradientProblem& problem);
void run_weight_gradients(const GradientProblem& problem);

}  // namespace gqmm::cpu
