// The CPU backend: plans a Problem and runs it on the active instruction set.
#pragma once

#include "cpu/kernels/kernel_table.hpp"
#include "internal_api.hpp"
#include "plan/plan.hpp"
#include "plan/problem.hpp"
#include "plan/routing.hpp"

namespace gqmm::cpu {

/// Of a product.
[[nodiscard]] double multiply_adds(const Problem& problem);
/// The pairs by expert.
[[nodiscard]] Routing routing_of(const Problem& problem);

/// What `kernels`, those of the active instruction set, and this machine allow for the product.
[[nodiscard]] KernelLimits limits_for(const PlannedProduct& product, const KernelTable& kernels);

/// The plan that run() would make for the problem if the process's team of threads were free. This function reads the pairs and
/// no other data. It throws std::invalid_argument if GQMM_NUM_THREADS has a wrong value.
[[nodiscard]] GQMM_INTERNAL_API Plan plan_for(const Problem& problem);

/// Computes the product and writes problem.y. The problem must be valid. This function throws
/// - std::bad_alloc if memory is exhausted,
/// - std::length_error if the call would have 2^31 items or more,
/// - std::invalid_argument if GQMM_NUM_THREADS has a wrong value,
/// - Interrupted if an InterruptCheck asked it to stop.
GQMM_INTERNAL_API void run(const Problem& problem);

}  // namespace gqmm::cpu
