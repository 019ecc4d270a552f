#include "cpu/gathered_product.hpp"

#include "cpu/backend.hpp"

#include <algorithm>

namespace gqmm::cpu {

GatheredProduct::GatheredProduct(CallContext& call, const Problem& problem)
    : routing_(routing_of(problem)),
      plan_(make_plan(problem, limits_for(problem, call.kernels()), routing_, call.threads())),
      weights_(problem.weights, problem.N, problem.K, call.kernels()),
      rows_(call, {.matrices = problem.x, .matrix_of_pair = problem.lhs, .M = problem.M, .K = problem.K},
            row_form(plan_, weights_)),
      product_(call.kernels(), plan_, routing_, rows_, weights_) {}

std::int64_t GatheredProduct::items_of_a_phase() const {
  return std::max(static_cast<std::int64_t>(plan_.items.size()), rows_.count());
}

}  // namespace gqmm::cpu
