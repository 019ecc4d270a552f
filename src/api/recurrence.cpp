#include "api/recurrence.hpp"

#include "api/check.hpp"

namespace gqmm::detail {

namespace {

void check_operand(std::string_view op, const NamedOperand& named) {
  const array& a = *named.operand;
  check_compute_float(op, named.name, a);
  if (a.rank() != 4) {
    fail(op, "{} has shape {}; it must have 4 dimensions, (batch, tokens, heads, depth)", named.name, to_string(a.shape()));
  }
  if (a.dim(3) == 0) {
    fail(op, "{} has shape {}; its last dimension must not be 0", named.name, to_string(a.shape()));
  }
}

void check_heads(std::string_view op, const RecurrenceOperands& operands) {
  for (const NamedOperand* operand : {&operands.q, &operands.k, &operands.v}) {
    check_operand(op, *operand);
  }
  const auto& [q_name, q] = operands.q;
  const auto& [k_name, k] = operands.k;
  const auto& [v_name, v] = operands.v;
  if (q->shape() != k->shape()) {
    fail(op, "{} has shape {} but {} has shape {}; they must be equal", q_name, to_string(q->shape()), k_name,
         to_string(k->shape()));
  }
  if (v->dim(0) != k->dim(0) || v->dim(1) != k->dim(1)) {
    fail(op, "{} has shape {} but {} has shape {}; their first two dimensions must be equal", k_name, to_string(k->shape()),
         v_name, to_string(v->shape()));
  }
  if (k->dim(2) == 0 ? v->dim(2) != 0 : v->dim(2) % k->dim(2) != 0) {
    fail(op, "{} has {} heads but {} and {} have {}; {} must have a multiple of them", v_name, v->dim(2), q_name, k_name,
         k->dim(2), v_name);
  }
}

/// Whether the new state takes the place of the state.
bool is_in_place(const RecurrenceOptions& options) {
  return options.state && options.state_out && options.state->bytes() == options.state_out->bytes() &&
         options.state->is_row_major();
}

NamedOperand optional_operand(std::string_view name, const std::optional<array>& a) { return {name, a ? &*a : nullptr}; }

void make_results(const RecurrenceOperands& operands, const RecurrenceOptions& options, Dtype y_dtype, array& y, array& state) {
  const NamedOperand mask = optional_operand("mask", options.mask);
  const NamedOperand before = optional_operand("state", options.state);
  std::vector<NamedOperand> read = {operands.q, operands.k, operands.v};
  read.insert(read.end(), operands.others.begin(), operands.others.end());
  read.push_back(mask);
  if (!is_in_place(options)) {
    read.push_back(before);
  }
  state = make_result(options.op, operands.shape_of_state(), Dtype::float32, options.state_out, read, "state_out");
  read.insert(read.end(), {before, {"state_out", &state}});
  y = make_result(options.op, operands.v.operand->shape(), y_dtype, options.out, read);
}

}  // namespace

void check_recurrence(const RecurrenceOperands& operands, const RecurrenceOptions& options) {
  check_heads(options.op, operands);
  const Shape of_state = operands.shape_of_state();
  if (options.state && (options.state->dtype() != Dtype::float32 || options.state->shape() != of_state)) {
    fail(options.op, "state is {} {}; it must be float32 {}, {}", name_of(options.state->dtype()),
         to_string(options.state->shape()), to_string(of_state), operands.dimensions_of_state);
  }
  const Shape of_mask = {operands.v.operand->dim(0), operands.v.operand->dim(1)};
  if (options.mask && (options.mask->dtype() != Dtype::bool_ || options.mask->shape() != of_mask)) {
    fail(options.op, "mask is {} {}; it must be bool {}, true for tokens that count", name_of(options.mask->dtype()),
         to_string(options.mask->shape()), to_string(of_mask));
  }
  check_stream(options.op, options.stream);
}

RecurrenceProblem lower_recurrence(const RecurrenceOperands& operands, const RecurrenceOptions& options, Dtype y_dtype,
                                   KeptMemory& kept, array& y, array& state) {
  make_results(operands, options, y_dtype, y, state);
  if (state.size() == 0) {
    return {};
  }
  const array& q = *operands.q.operand;
  const array& k = *operands.k.operand;
  const array& v = *operands.v.operand;
  return {.batch = v.dim(0),
          .tokens = v.dim(1),
          .k_heads = k.dim(2),
          .v_heads = v.dim(2),
          .Dk = k.dim(3),
          .Dv = v.dim(3),
          .q = MatrixBatch(q),
          .k = MatrixBatch(k),
          .v = MatrixBatch(v),
          .mask = options.mask ? MatrixBatch(*options.mask) : MatrixBatch(),
          .lengths = {},
          .state = options.state ? kept.contiguous(*options.state) : MatrixBatch(),
          .y = y.mutable_bytes(),
          .y_dtype = y_dtype,
          .next_state = state.mutable_bytes(),
          .threads = options.stream.threads};
}

}  // namespace gqmm::detail
