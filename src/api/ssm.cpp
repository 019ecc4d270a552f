// ssm_update: the checks of its arguments.
#include "cpu/ssm.hpp"

#include "api/check.hpp"
#include "api/indices.hpp"
#include "api/loaded_values.hpp"
#include "api/lower.hpp"
#include "api/recurrence.hpp"
#include "arrays/views.hpp"
#include "threads/node_binding.hpp"

#include <gqmm/infer.hpp>
#include <gqmm/ssm.hpp>

#include <string_view>
#include <utility>

namespace gqmm {

using namespace detail;

namespace {

constexpr std::string_view ssm_op = "ssm_update";

/// The operands that only this recurrence has.
struct Parameters {
  const array& A_log;
  const array& D;
  const array& dt;
  const array& dt_bias;
};

RecurrenceOperands name_operands(const array& hidden_states, const array& B, const array& C, const Parameters& parameters,
                                 const SsmOptions& options) {
  const auto& [A_log, D, dt, dt_bias] = parameters;
  return {.q = {"C", &C},
          .k = {"B", &B},
          .v = {"hidden_states", &hidden_states},
          .others = {{"A_log", &A_log},
                     {"D", &D},
                     {"dt", &dt},
                     {"dt_bias", &dt_bias},
                     {"lengths", options.lengths ? &*options.lengths : nullptr}},
          .dimensions_of_state = "(batch, heads, depth of hidden_states, depth of B)"};
}

void check_parameters(const array& hidden_states, const Parameters& parameters) {
  const Shape of_heads = {hidden_states.dim(2)};
  for (const auto& [name, a] : {std::pair("A_log", &parameters.A_log), {"D", &parameters.D}, {"dt_bias", &parameters.dt_bias}}) {
    check_compute_float(ssm_op, name, *a);
    if (a->shape() != of_heads) {
      fail(ssm_op, "{} has shape {}; it must be {}, a number for each head of hidden_states", name, to_string(a->shape()),
           to_string(of_heads));
    }
  }
  const Shape of_tokens = {hidden_states.dim(0), hidden_states.dim(1), hidden_states.dim(2)};
  check_compute_float(ssm_op, "dt", parameters.dt);
  if (parameters.dt.shape() != of_tokens) {
    fail(ssm_op, "dt has shape {}; it must be {}, a number for each token and head of hidden_states",
         to_string(parameters.dt.shape()), to_string(of_tokens));
  }
}

void check_own_options(const array& hidden_states, const SsmOptions& options) {
  const auto [smallest, largest] = options.time_step_limit;
  const bool have_order = largest >= smallest && largest >= 0;  // a NaN has none
  if (!have_order) {
    fail(ssm_op, "time_step_limit is ({}, {}); it must be two numbers, of which the second is not below the first or 0", smallest,
         largest);
  }
  if (options.lengths) {
    check_integer(ssm_op, "lengths", *options.lengths);
    const Shape of_lengths = {hidden_states.dim(0)};
    if (options.lengths->shape() != of_lengths) {
      fail(ssm_op, "lengths has shape {}; it must be {}, a number for each sequence", to_string(options.lengths->shape()),
           to_string(of_lengths));
    }
  }
}

/// The number of tokens of each sequence. What does not fit int64 is longer than any sequence.
std::vector<std::int64_t> load_lengths(const array& lengths, std::int64_t tokens) {
  std::vector<std::int64_t> values;
  for (std::int64_t b = 0; b < lengths.dim(0); ++b) {
    values.push_back(load_integer(lengths.bytes() + b * lengths.strides()[0], lengths.dtype()).value_or(tokens));
  }
  return values;
}

}  // namespace

SsmTypes infer_ssm_update(const array& hidden_states, const array& A_log, const array& B, const array& C, const array& D,
                          const array& dt, const array& dt_bias, const SsmOptions& options) {
  const Parameters parameters = {A_log, D, dt, dt_bias};
  const RecurrenceOperands operands = name_operands(hidden_states, B, C, parameters, options);
  check_recurrence(operands, {ssm_op, options});
  check_parameters(hidden_states, parameters);
  check_own_options(hidden_states, options);
  return {.y = {hidden_states.shape(), promote(hidden_states.dtype(), D.dtype())},
          .state = {operands.shape_of_state(), Dtype::float32}};
}

namespace detail {

LoweredSsm lower_ssm(const array& hidden_states, const array& A_log, const array& B, const array& C, const array& D,
                     const array& dt, const array& dt_bias, const SsmOptions& options) {
  const SsmTypes types = infer_ssm_update(hidden_states, A_log, B, C, D, dt, dt_bias, options);
  const RecurrenceOperands operands = name_operands(hidden_states, B, C, {A_log, D, dt, dt_bias}, options);
  LoweredSsm lowered;
  auto& [y, state] = lowered.result;
  lowered.problem = {lower_recurrence(operands, {ssm_op, options}, types.y.dtype, lowered, y, state),
                     MatrixBatch(with_dimension(A_log, 0)),
                     MatrixBatch(with_dimension(D, 0)),
                     MatrixBatch(with_dimension(dt_bias, 0)),
                     MatrixBatch(with_dimension(dt, 3)),
                     options.time_step_limit.smallest,
                     options.time_step_limit.largest};
  if (options.lengths) {
    lowered.problem.lengths = load_lengths(*options.lengths, hidden_states.dim(1));
  }
  return lowered;
}

}  // namespace detail

SsmResult ssm_update(const array& hidden_states, const array& A_log, const array& B, const array& C, const array& D,
                     const array& dt, const array& dt_bias, const SsmOptions& options) {
  const threads::NodeBinding binding(options.stream);
  LoweredSsm lowered = lower_ssm(hidden_states, A_log, B, C, D, dt, dt_bias, options);
  if (lowered.problem.next_state != nullptr) {
    cpu::ssm_update(lowered.problem);
  }
  return std::move(lowered.result);
}

}  // namespace gqmm
