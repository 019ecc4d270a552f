// The problem of the gated delta rule, as the API hands it down.
#pragma once

#include "plan/recurrence_problem.hpp"

namespace gqmm::detail {

/// Tokens that decay and correct their states (include/gqmm/gated_delta.hpp).
struct GatedDeltaProblem : RecurrenceProblem {
  MatrixBatch g;     // (v_heads, Dk) for each token, or (v_heads, 1): one factor for all of Dk
  MatrixBatch beta;  // (v_heads, 1) for each token
};

}  // namespace gqmm::detail
