#include "api/gradients.hpp"

#include "api/check.hpp"

#include <numeric>
#include <string>
#include <utility>

namespace gqmm::detail {

void check_dy(std::string_view op, const array& dy, const Shape& result) {
  check_compute_float(op, "dy", dy);
  if (dy.shape() != result) {
    fail(op, "dy has shape {} but the product has shape {}; pass the gradient of the product, one value for each of its elements",
         to_string(dy.shape()), to_string(result));
  }
}

std::optional<array> make_gradient(std::string_view op, const GradientRequest& request, std::vector<NamedOperand>& operands) {
  const std::string name = "out." + std::string(request.name);
  if (!request.wanted) {
    if (request.out) {
      fail(op, "{} is given but wrt leaves {} out; ask for that gradient or pass no memory for it", name, request.name);
    }
    return std::nullopt;
  }
  array gradient = make_result(op, request.type.shape, request.type.dtype, request.out, operands, name);
  if (request.out) {
    operands.push_back({request.name, &*request.out});
  }
  return gradient;
}

GradientMemory memory_of(const std::optional<array>& gradient) {
  return gradient ? GradientMemory{gradient->mutable_bytes(), gradient->dtype()} : GradientMemory{};
}

void attach_operands(LoweredGradients& lowered, const array& dy, const array& x, bool reads_x) {
  Lowered& operands = lowered.operands;
  if (reads_x) {
    operands.problem.x = operands.contiguous(x, operands.lhs);
  }
  std::vector<std::int64_t> pairs(operands.rhs.size());
  std::iota(pairs.begin(), pairs.end(), std::int64_t{0});
  lowered.problem.dy = operands.contiguous(dy, pairs);
  lowered.problem.x_matrices = element_count(leading_shape(x));
  lowered.problem.product = operands.problem;
}

}  // namespace gqmm::detail
