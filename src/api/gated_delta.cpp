// gated_delta_update: the checks of its arguments.
#include "cpu/gated_delta.hpp"

#include "api/check.hpp"
#include "api/lower.hpp"
#include "api/output.hpp"
#include "arrays/views.hpp"
#include "threads/node_binding.hpp"

#include <gqmm/gated_delta.hpp>
#include <gqmm/infer.hpp>

#include <initializer_list>
#include <string_view>
#include <utility>
#include <vector>

namespace gqmm {

using namespace detail;

namespace {

constexpr std::string_view delta_op = "gated_delta_update";

/// An operand and the dimensions that it must have, as errors call them.
void check_operand(std::string_view name, const array& a, int rank, std::string_view dimensions) {
  check_compute_float(delta_op, name, a);
  if (a.rank() != rank) {
    fail(delta_op, "{} has shape {}; it must have {} dimensions, {}", name, to_string(a.shape()), rank, dimensions);
  }
  if (rank == 4 && a.dim(3) == 0) {
    fail(delta_op, "{} has shape {}; its last dimension must not be 0", name, to_string(a.shape()));
  }
}

void check_heads(const array& q, const array& k, const array& v) {
  check_operand("q", q, 4, "(batch, tokens, heads, depth)");
  check_operand("k", k, 4, "(batch, tokens, heads, depth)");
  check_operand("v", v, 4, "(batch, tokens, heads, depth)");
  if (q.shape() != k.shape()) {
    fail(delta_op, "q has shape {} but k has shape {}; they must be equal", to_string(q.shape()), to_string(k.shape()));
  }
  if (v.dim(0) != k.dim(0) || v.dim(1) != k.dim(1)) {
    fail(delta_op, "k has shape {} but v has shape {}; their first two dimensions must be equal", to_string(k.shape()),
         to_string(v.shape()));
  }
  if (k.dim(2) == 0 ? v.dim(2) != 0 : v.dim(2) % k.dim(2) != 0) {
    fail(delta_op, "v has {} heads but q and k have {}; v must have a multiple of them", v.dim(2), k.dim(2));
  }
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

void check_options(const array& k, const array& v, const GatedDeltaOptions& options, const Shape& of_state) {
  if (options.state) {
    const array& state = *options.state;
    if (state.dtype() != Dtype::float32 || state.shape() != of_state) {
      fail(delta_op, "state is {} {}; it must be float32 {}, (batch, heads of v, depth of v, depth of k)", name_of(state.dtype()),
           to_string(state.shape()), to_string(of_state));
    }
  }
  const Shape of_mask = {v.dim(0), k.dim(1)};
  if (options.mask && (options.mask->dtype() != Dtype::bool_ || options.mask->shape() != of_mask)) {
    fail(delta_op, "mask is {} {}; it must be bool {}, true for tokens that count", name_of(options.mask->dtype()),
         to_string(options.mask->shape()), to_string(of_mask));
  }
  check_stream(delta_op, options.stream);
}

/// Whether the new state takes the place of the state.
bool is_in_place(const GatedDeltaOptions& options) {
  return options.state && options.state_out && options.state->bytes() == options.state_out->bytes() &&
         options.state->is_row_major();
}

GatedDeltaResult make_results(const GatedDeltaTypes& types, std::initializer_list<NamedOperand> read,
                              const GatedDeltaOptions& options) {
  const NamedOperand state = {"state", options.state ? &*options.state : nullptr};
  const NamedOperand mask = {"mask", options.mask ? &*options.mask : nullptr};
  std::vector<NamedOperand> operands(read);
  operands.push_back(mask);
  if (!is_in_place(options)) {
    operands.push_back(state);
  }
  array next = make_result(delta_op, types.state.shape, types.state.dtype, options.state_out, operands, "state_out");
  operands = read;
  operands.insert(operands.end(), {mask, state, {"state_out", &next}});
  array y = make_result(delta_op, types.y.shape, types.y.dtype, options.out, operands);
  return {.y = std::move(y), .state = std::move(next)};
}

}  // namespace

GatedDeltaTypes infer_gated_delta_update(const array& q, const array& k, const array& v, const array& g, const array& beta,
                                         const GatedDeltaOptions& options) {
  check_heads(q, k, v);
  check_gates(k, v, g, beta);
  const Shape of_state = {v.dim(0), v.dim(2), v.dim(3), k.dim(3)};
  check_options(k, v, options, of_state);
  return {.y = {v.shape(), q.dtype()}, .state = {of_state, Dtype::float32}};
}

namespace detail {

LoweredGatedDelta lower_gated_delta(const array& q, const array& k, const array& v, const array& g, const array& beta,
                                    const GatedDeltaOptions& options) {
  const GatedDeltaTypes types = infer_gated_delta_update(q, k, v, g, beta, options);
  LoweredGatedDelta lowered;
  lowered.result = make_results(types, {{"q", &q}, {"k", &k}, {"v", &v}, {"g", &g}, {"beta", &beta}}, options);
  if (lowered.result.state.size() == 0) {
    return lowered;
  }
  lowered.problem = {.batch = v.dim(0),
                     .tokens = v.dim(1),
                     .k_heads = k.dim(2),
                     .v_heads = v.dim(2),
                     .Dk = k.dim(3),
                     .Dv = v.dim(3),
                     .q = MatrixBatch(q),
                     .k = MatrixBatch(k),
                     .v = MatrixBatch(v),
                     .g = MatrixBatch(g.rank() == 4 ? g : with_dimension(g, 3)),
                     .beta = MatrixBatch(with_dimension(beta, 3)),
                     .mask = options.mask ? MatrixBatch(*options.mask) : MatrixBatch(),
                     .state = options.state ? lowered.contiguous(*options.state) : MatrixBatch(),
                     .y = lowered.result.y.mutable_bytes(),
                     .y_dtype = types.y.dtype,
                     .next_state = lowered.result.state.mutable_bytes(),
                     .threads = options.stream.threads};
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
