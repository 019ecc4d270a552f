// The problem of the state space recurrence, as the API hands it down.
#pragma once

#include "plan/recurrence_problem.hpp"

namespace gqmm::detail {

/// Tokens that add x, in time steps of their own, to states that decay (include/gqmm/ssm.hpp). C is q, B is k, and x is v.
struct SsmProblem : RecurrenceProblem {
  MatrixBatch A_log;    // (1, v_heads)
  MatrixBatch D;        // likewise
  MatrixBatch dt_bias;  // likewise
  MatrixBatch dt;       // (v_heads, 1) for each token
  float smallest_step = 0;
  float largest_step = 0;
};

}  // namespace gqmm::detail
