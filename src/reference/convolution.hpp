// The specification of the depthwise convolution in double precision, and how far a result may be from it
// (docs/reference/numerics.md).
#pragma once

#include "plan/convolution_problem.hpp"

#include <cstdint>

namespace gqmm::detail {

/// An element of the result.
struct ConvolutionElement {
  double value = 0;
  double bound = 0;  ///< infinite if the reference is not finite
};

ConvolutionElement reference_depthwise_conv1d(const ConvolutionProblem& problem, std::int64_t sequence, std::int64_t row,
                                              std::int64_t channel);

}  // namespace gqmm::detail
