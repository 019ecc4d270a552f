// The specification of attention in double precision, and how far a result may be from it (docs/reference/numerics.md).
#pragma once

#include "plan/attention_problem.hpp"

#include <cstdint>
#include <vector>

namespace gqmm::detail {

/// An element of the result.
struct AttentionReference {
  double y = 0;
  double bound = 0;  ///< infinite if the reference is not finite
};

/// The elements of one row of the result: of a batch element, a head of q and a query.
std::vector<AttentionReference> reference_attention(const AttentionProblem& problem, std::int64_t batch, std::int64_t head,
                                                    std::int64_t query);

}  // namespace gqmm::detail
