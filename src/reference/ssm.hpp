// The specification of the state space recurrence in double precision, and how far a result may be from it
// (docs/reference/numerics.md).
#pragma once

#include "plan/ssm_problem.hpp"
#include "reference/recurrence.hpp"

namespace gqmm::detail {

RecurrenceColumn reference_of(const SsmProblem& problem, const ColumnOfHead& column);

}  // namespace gqmm::detail
