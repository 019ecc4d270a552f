// gated_delta_update: the checks of its arguments.
#include "cpu/gated_delta.hpp"

#include "api/check.hpp"
#include "api/lower.hpp"
#include "api/recurrence.hpp"
#include "arrays/views.hpp"
#include "threads/node_binding.hpp"

#include <gqmm/gated_delta.hpp>
#include <gqmm/infer.hpp>

#include <string_view>
#include <utility>

namespace gqmm {

using namespace detail;

namespace {

constexpr std::string_view delta_op = "gated_delta_update";

RecurrenceOperands name_operands(const array& q, const array& k, const array& v, const array& g, const array& beta) {
  return {.q = {"q", &q},
          .k = {"k", &k},
          .v = {"v", &v},
          .others = {{"g", &g}, {"beta", &beta}},
          .dimensions_of_state = "(batch, heads of v, depth of v, depth of k)"};
}

void check_gates(const array& k, const array& v, const array& g, const array& beta) {
  const Shape of_heads = {v.dim(0), v.dim(1), v.dim(2)};
  const Shape of_elements = {v.dim(0), v.dim(1), v.dim(2), k.dim(3)};
  check_compute_float(delta_op, "g", g);
  check_compute_float(delta_op, "beta", beta);
  if (g.shape() != of_heads && g.shape() != of_elements) {
    fail(delta_op, "g has shape {}; it must be {}, a factor for each head of v, or {}, one for each element of k",
         to_string(g.shape()), to_string(of_heads), to_string(of_elements));
  }
  if (beta.shape() != of_heads) {
    fail(delta_op, "beta has shape {}; it must be {}, a factor for each head of v", to_string(beta.shape()), to_string(of_heads));
  }
}

}  // namespace

GatedDeltaTypes infer_gated_delta_update(const array& q, const array& k, const array& v, const array& g, const array& beta,
                                         const GatedDeltaOptions& options) {
  const RecurrenceOperands operands = name_operands(q, k, v, g, beta);
  check_recurrence(operands, {delta_op, options});
  check_gates(k, v, g, beta);
  return {.y = {v.shape(), q.dtype()}, .state = {operands.shape_of_state(), Dtype::float32}};
}

namespace detail {

LoweredGatedDelta lower_gated_delta(const array& q, const array& k, const array& v, const array& g, const array& beta,
                                    const GatedDeltaOptions& options) {
  const GatedDeltaTypes types = infer_gated_delta_update(q, k, v, g, beta, options);
  LoweredGatedDelta lowered;
  auto& [y, state] = lowered.result;
  lowered.problem = {
      lower_recurrence(name_operands(q, k, v, g, beta), {delta_op, options}, types.y.dtype, lowered, y, state),
      MatrixBatch(g.rank() == 4 ? g : with_dimension(g, 3)),
      MatrixBatch(with_dimension(beta, 3)),
  };
  return lowered;
}

}  // namespace detail

GatedDeltaResult gated_delta_update(const array& q, const array& k, const array& v, const array& g, const array& beta,
                                    const GatedDeltaOptions& options) {
  const threads::NodeBinding binding(options.stream);
  LoweredGatedDelta lowered = lower_gated_delta(q, k, v, g, beta, options);
  if (lowered.problem.next_state != nullptr) {
    cpu::gated_delta_update(lowered.problem);
  }
  return std::move(lowered.result);
}

}  // namespace gqmm
