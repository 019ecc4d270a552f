// The gradients of a problem in double precision, and how far from them a result may lie (docs/reference/numerics.md,
// "Gradients").
#pragma once

#include "conformance/support/oracle.hpp"
#include "plan/gradient_problem.hpp"

#include <gqmm/array.hpp>

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

namespace gqmm::conformance {

using namespace detail;

/// An element of a gradient.
struct GradientValue {
  double value = 0;
  double bound = 0;  ///< before the rounding to the gradient's type
};

/// Row-major, in the order of the gradient's elements.
using GradientValues = std::vector<GradientValue>;

/// The gradient of x: sums over pairs of products with the other transpose, each with the bound of a float32 product.
GradientValues input_gradient(const GradientProblem& problem);

/// Which array of the weights a gradient is of.
enum class WeightPart { dense, scales, biases };
GradientValues weight_gradient(const GradientProblem& problem, WeightPart part);

/// The largest error of an element as a fraction of its bound; -1 if every element may overflow.
double worst_fraction(const GradientValues& expected, const array& actual);
/// Success if every element keeps its bound, else the worst one, both values and the bound.
::testing::AssertionResult keeps(const GradientValues& expected, const array& actual);

}  // namespace gqmm::conformance
