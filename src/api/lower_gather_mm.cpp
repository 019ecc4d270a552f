// gather_mm: the dense product with the same routing.
#include "api/check.hpp"
#include "api/indices.hpp"
#include "api/lower.hpp"
#include "api/output.hpp"
#include "api/weights.hpp"

#include <utility>

namespace gqmm {
namespace {

constexpr std::string_view op = "gather_mm";

void check_operand(std::string_view name, const array& a) {
  check_compute_float(op, name, a);
  if (a.rank() == 0) {
    fail(op, "{} is a scalar; it needs at least one dimension", name);
  }
}

/// A one-dimensional a is a row.
array as_rows(const array& a) {
  return a.rank() > 1 ? a : array::borrow(a.bytes(), {1, a.dim(0)}, a.dtype(), {0, a.stride(0)}, a.owner());
}

/// A one-dimensional b is a column.
array as_columns(const array& b) {
  const auto itemsize = static_cast<std::int64_t>(size_of(b.dtype()));
  return b.rank() > 1 ? b : array::borrow(b.bytes(), {b.dim(0), 1}, b.dtype(), {b.stride(0), itemsize}, b.owner());
}

/// The operands as stacks of matrices of which every pair can be multiplied.
struct Operands {
  array rows;     // (…, M, K)
  array columns;  // (…, K, N)
  Shape a_leading;
  Shape b_leading;
};

Operands check_operands(const array& a, const array& b, const GatherMmOptions& options) {
  check_operand("a", a);
  check_operand("b", b);
  check_stream(op, options.stream);
  Operands operands = {.rows = as_rows(a), .columns = as_columns(b), .a_leading = {}, .b_leading = {}};
  const std::int64_t K = operands.rows.dim(-1);
  if (K != operands.columns.dim(-2)) {
    fail(op, "a of shape {} has K = {} but b of shape {} has K = {}; the last dimension of a must be the last but one of b",
         to_string(a.shape()), K, to_string(b.shape()), operands.columns.dim(-2));
  }
  if (K == 0) {
    fail(op, "K = 0: the rows of a of shape {} are empty; K must be positive", to_string(a.shape()));
  }
  operands.a_leading = leading_shape(operands.rows);
  operands.b_leading = leading_shape(operands.columns);
  return operands;
}

/// The shape of the result for pairs of this shape.
Shape result_shape(Shape pairs, const array& a, const array& b) {
  if (a.rank() > 1) {
    pairs.push_back(a.dim(-2));
  }
  if (b.rank() > 1) {
    pairs.push_back(b.dim(-1));
  }
  return pairs;
}

}  // namespace

ResultType result_of_gather_mm(const array& a, const array& b, const GatherMmOptions& options) {
  const Operands operands = check_operands(a, b, options);
  Shape pairs = pair_shape(op, {"a", "lhs_indices", operands.a_leading, options.lhs_indices},
                           {"b", "rhs_indices", operands.b_leading, options.rhs_indices});
  return {result_shape(std::move(pairs), a, b), promote(a.dtype(), b.dtype())};
}

Lowered lower_gather_mm(const array& a, const array& b, const GatherMmOptions& options) {
  const Operands operands = check_operands(a, b, options);
  Pairs pairs = resolve_pairs(op, {"a", "lhs_indices", operands.a_leading, options.lhs_indices},
                              {"b", "rhs_indices", operands.b_leading, options.rhs_indices}, options.sorted_indices);

  Lowered lowered;
  lowered.result = make_result(
      op, result_shape(std::move(pairs.shape), a, b), promote(a.dtype(), b.dtype()), options.out,
      {{"a", &a}, {"b", &b}, {"lhs_indices", address_of(options.lhs_indices)}, {"rhs_indices", address_of(options.rhs_indices)}});
  lowered.lhs = std::move(pairs.lhs);
  lowered.rhs = std::move(pairs.rhs);

  Problem& problem = lowered.problem;
  problem.M = operands.rows.dim(-2);
  problem.N = operands.columns.dim(-1);
  problem.K = operands.rows.dim(-1);
  problem.x = lowered.keep_contiguous(operands.rows, lowered.lhs);
  problem.w = lowered.keep(operands.columns);  // read at any strides
  problem.transpose = false;
  problem.lhs = lowered.lhs;
  problem.rhs = lowered.rhs;
  problem.sorted = pairs.sorted;
  problem.y = lowered.result.mutable_bytes();
  problem.y_dtype = lowered.result.dtype();
  problem.threads = options.stream.threads;
  return lowered;
}

}  // namespace gqmm
