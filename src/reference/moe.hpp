// The specification of moe_ffn in double precision, and how far a result may be from it (docs/reference/numerics.md).
#pragma once

#include "plan/moe_problem.hpp"

#include <cstdint>
#include <vector>

namespace gqmm::detail {

/// An element of the result.
struct MoeReference {
  double y = 0;
  double bound = 0;  ///< infinite if the reference is not finite or is beyond the range of the type
};

/// The elements of the result, row-major.
std::vector<MoeReference> reference_moe(const MoeProblem& problem);

/// Some outputs of one token, in their order. The problem has weights. This function keeps no decoded weights, so that layers of
/// any size can be sampled.
std::vector<MoeReference> reference_moe(const MoeProblem& problem, std::int64_t token, const std::vector<std::int64_t>& outputs);

}  // namespace gqmm::detail
