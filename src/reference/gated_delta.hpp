// The specification of the gated delta rule in double precision, and how far a result may be from it
// (docs/reference/numerics.md).
#pragma once

#include "plan/gated_delta_problem.hpp"

#include <cstdint>
#include <vector>

namespace gqmm::detail {

/// An element of a result.
struct GatedDeltaElement {
  double value = 0;
  double bound = 0;  ///< infinite if the reference is not finite
};

/// The results of one column of v: an element of y for each token, and the row of the state.
struct GatedDeltaColumn {
  std::vector<GatedDeltaElement> y;
  std::vector<GatedDeltaElement> state;
};

GatedDeltaColumn reference_gated_delta(const GatedDeltaProblem& problem, std::int64_t batch, std::int64_t head,
                                       std::int64_t column);

}  // namespace gqmm::detail
