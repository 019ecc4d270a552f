// What the gradients of all products check and allocate in the same way.
#pragma once

#include "api/lower.hpp"
#include "api/output.hpp"
#include "plan/gradient_problem.hpp"

#include <gqmm/array.hpp>

#include <optional>
#include <string_view>
#include <vector>

namespace gqmm::detail {

/// Throws std::invalid_argument unless dy is of a compute float and in the shape of the product's result.
void check_dy(std::string_view op, const array& dy, const Shape& result);

/// A gradient that a call may ask for.
struct GradientRequest {
  std::string_view name;  // as the caller knows it: "x", "scales"
  bool wanted;
  ResultType type;
  const std::optional<array>& out;
};

/// Allocates the gradient, or checks the caller's memory against the operands, to which it is added: no gradient may overlap the
/// memory of another one. Returns nothing where the gradient is not wanted; memory for such a one is an error.
std::optional<array> make_gradient(std::string_view op, const GradientRequest& request, std::vector<NamedOperand>& operands);

/// Where a backend writes it.
GradientMemory memory_of(const std::optional<array>& gradient);

/// Makes dy, the pairs' matrices (…, M, N), and, if it is read, x, a stack of matrices, part of the problem.
void attach_operands(LoweredGradients& lowered, const array& dy, const array& x, bool reads_x);

}  // namespace gqmm::detail
