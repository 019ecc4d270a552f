// The specification of the gated delta rule in double precision, and how far a result may be from it
// (docs/reference/numerics.md).
#pragma once

#include "plan/gated_delta_problem.hpp"
#include "reference/recurrence.hpp"

namespace gqmm::detail {

RecurrenceColumn reference_of(const GatedDeltaProblem& problem, const ColumnOfHead& column);

}  // namespace gqmm::detail
