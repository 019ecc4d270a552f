// gather_mm and grouped_mm, the dense products with the same routing, and their gradients.
#include "api/check.hpp"
#include "api/gradients.hpp"
#include "api/indices.hpp"
#include "api/lower.hpp"
#include "api/output.hpp"
#include "api/weights.hpp"
#include "arrays/views.hpp"

#include <optional>
#include <string_view>
#include <utility>
#include <vector>

namespace gqmm::detail {
namespace {

constexpr std::string_view product_op = "gather_mm";
constexpr std::string_view vjp_op = "gather_mm_vjp";
constexpr std::string_view grouped_op = "grouped_mm";
constexpr std::string_view grouped_vjp_op = "grouped_mm_vjp";

void check_operand(std::string_view op, std::string_view name, const array& a) {
  check_compute_float(op, name, a);
  if (a.rank() == 0) {
    fail(op, "{} is a scalar; it needs at least one dimension", name);
  }
}

/// Returns `a` as a matrix: a one-dimensional a is a row.
array as_rows(const array& a) {
  return a.rank() > 1 ? a : array::borrow(a.bytes(), {1, a.dim(0)}, a.dtype(), {0, a.stride(0)}, a.owner());
}

/// Returns `b` as a matrix: a one-dimensional b is a column.
array as_columns(const array& b) {
  return b.rank() > 1 ? b : array::borrow(b.bytes(), {b.dim(0), 1}, b.dtype(), {b.stride(0), b.itemsize()}, b.owner());
}

/// The operands as batches of matrices. Any matrix of one can be multiplied by any matrix of the other.
struct DenseOperands {
  array rows;     // (…, M, K)
  array columns;  // (…, K, N)
  Shape a_leading;
  Shape b_leading;
};

DenseOperands check_operands(std::string_view op, const array& a, const array& b, const Stream& stream) {
  check_operand(op, "a", a);
  check_operand(op, "b", b);
  check_stream(op, stream);
  DenseOperands operands = {.rows = as_rows(a), .columns = as_columns(b), .a_leading = {}, .b_leading = {}};
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

/// Returns the shape of the result for pairs of this shape.
Shape result_shape(Shape pairs, const array& a, const array& b) {
  if (a.rank() > 1) {
    pairs.push_back(a.dim(-2));
  }
  if (b.rank() > 1) {
    pairs.push_back(b.dim(-1));
  }
  return pairs;
}

Pairs resolve_pairs(std::string_view op, const DenseOperands& operands, const std::optional<array>& lhs_indices,
                    const std::optional<array>& rhs_indices, bool sorted_indices) {
  return detail::resolve_pairs(op, {"a", "lhs_indices", operands.a_leading, address_of(lhs_indices)},
                               {"b", "rhs_indices", operands.b_leading, address_of(rhs_indices)}, sorted_indices);
}

/// All of a product but a and the result.
Lowered lower_weights(const DenseOperands& operands, Pairs pairs, const Stream& stream) {
  Lowered lowered;
  lowered.lhs = std::move(pairs.lhs);
  lowered.rhs = std::move(pairs.rhs);

  Problem& problem = lowered.problem;
  problem.M = operands.rows.dim(-2);
  problem.N = operands.columns.dim(-1);
  problem.K = operands.rows.dim(-1);
  problem.weights = DenseMatrices{MatrixBatch(operands.columns)};
  problem.lhs = lowered.lhs;
  problem.rhs = lowered.rhs;
  problem.sorted = pairs.sorted;
  problem.threads = stream.threads;
  return lowered;
}

/// What the caller calls the operands, and their gradients.
struct OperandNames {
  std::string_view a;
  std::string_view b;
};
constexpr OperandNames gathered_names = {"a", "b"};
constexpr OperandNames grouped_names = {"x", "b"};

/// A product whose arguments have been checked, apart from `options.out`. The call reads the arrays `read`.
Lowered lower(std::string_view op, const DenseOperands& operands, Pairs pairs, const Shape& shape,
              const std::vector<NamedOperand>& read, const GatherMmOptions& options) {
  array result = make_result(op, shape, promote(operands.rows.dtype(), operands.columns.dtype()), options.out, read);
  Lowered lowered = lower_weights(operands, std::move(pairs), options.stream);
  lowered.result = std::move(result);
  lowered.problem.x = lowered.contiguous(operands.rows, lowered.lhs);
  lowered.problem.y = lowered.result.mutable_bytes();
  lowered.problem.y_dtype = lowered.result.dtype();
  return lowered;
}

void check_wrt(std::string_view op, const OperandNames& names, bool a, bool b) {
  if (!a && !b) {
    fail(op, "wrt is empty; ask for the gradient of {} or {}", names.a, names.b);
  }
}

/// The gradients of a product whose arguments have been checked, apart from `options.out`. `a` and `b`: as the caller has
/// them. `dy`: as matrices. `read`: the arrays that the product reads, a and b first.
LoweredGradients lower_gradients(std::string_view op, const OperandNames& names, const array& dy, const array& a, const array& b,
                                 const DenseOperands& operands, Pairs pairs, std::vector<NamedOperand> read,
                                 const GatherMmVjpOptions& options) {
  LoweredGradients lowered;
  // What is not read may have no memory, and may be written.
  if (!options.wrt.b) {
    read[0].operand = nullptr;
  }
  if (!options.wrt.a) {
    read[1].operand = nullptr;
  }
  read.push_back({"dy", &dy});
  lowered.dense.a = make_gradient(op, {names.a, options.wrt.a, {a.shape(), a.dtype()}, options.out.a}, read);
  lowered.dense.b = make_gradient(op, {names.b, options.wrt.b, {b.shape(), b.dtype()}, options.out.b}, read);

  lowered.operands = lower_weights(operands, std::move(pairs), options.stream);
  attach_operands(lowered, dy, operands.rows, options.wrt.b);
  lowered.problem.x = memory_of(lowered.dense.a);
  lowered.problem.weights = memory_of(lowered.dense.b);
  return lowered;
}

/// Sorted rows, each a matrix of its own, and the matrices of the experts.
struct GroupedMm {
  DenseOperands operands;
  Pairs pairs;
  std::vector<NamedOperand> read;
};

GroupedMm check_grouped(std::string_view op, const array& x, const array& b, const array& offsets, Missing rows,
                        const Stream& stream) {
  check_compute_float(op, "x", x);
  check_compute_float(op, "b", b);
  if (x.rank() != 2 || b.rank() != 3 || x.dim(1) != b.dim(1)) {
    fail(op, "x has shape {} and b has shape {}; they must be (R, K) and (E, K, N) with the same K", to_string(x.shape()),
         to_string(b.shape()));
  }
  GroupedMm product = {.operands = check_operands(op, with_dimension(x, 1), b, stream), .pairs = {}, .read = {}};
  product.pairs = grouped_pairs(op, offsets, x.dim(0), b.dim(0), rows);
  product.read = {{"x", &x}, {"b", &b}, {"offsets", &offsets}};
  return product;
}

}  // namespace

Lowered lower_gather_mm(const array& a, const array& b, const GatherMmOptions& options) {
  const DenseOperands operands = check_operands(product_op, a, b, options.stream);
  Pairs pairs = resolve_pairs(product_op, operands, options.lhs_indices, options.rhs_indices, options.sorted_indices);
  const Shape shape = result_shape(pairs.shape, a, b);
  return lower(product_op, operands, std::move(pairs), shape,
               {{gathered_names.a, &a},
                {gathered_names.b, &b},
                {"lhs_indices", address_of(options.lhs_indices)},
                {"rhs_indices", address_of(options.rhs_indices)}},
               options);
}

Lowered lower_grouped_mm(const array& x, const array& b, const array& offsets, const GroupedMmOptions& options) {
  GroupedMm product = check_grouped(grouped_op, x, b, offsets, options.rows, options.stream);
  return lower(grouped_op, product.operands, std::move(product.pairs), {x.dim(0), b.dim(2)}, product.read,
               {.stream = options.stream, .out = options.out});
}

LoweredGradients lower_gather_mm_vjp(const array& dy, const array& a, const array& b, const GatherMmVjpOptions& options) {
  const DenseOperands operands = check_operands(vjp_op, a, b, options.stream);
  check_wrt(vjp_op, gathered_names, options.wrt.a, options.wrt.b);
  Pairs pairs = resolve_pairs(vjp_op, operands, options.lhs_indices, options.rhs_indices, options.sorted_indices);
  check_dy(vjp_op, dy, result_shape(pairs.shape, a, b));
  array matrices = b.rank() > 1 ? dy : with_dimension(dy, dy.rank());
  if (a.rank() == 1) {
    matrices = with_dimension(matrices, matrices.rank() - 1);
  }
  return lower_gradients(vjp_op, gathered_names, matrices, a, b, operands, std::move(pairs),
                         {{gathered_names.a, &a},
                          {gathered_names.b, &b},
                          {"lhs_indices", address_of(options.lhs_indices)},
                          {"rhs_indices", address_of(options.rhs_indices)}},
                         options);
}

LoweredGradients lower_grouped_mm_vjp(const array& dy, const array& x, const array& b, const array& offsets,
                                      const GroupedMmVjpOptions& options) {
  GroupedMm product = check_grouped(grouped_vjp_op, x, b, offsets, options.rows, options.stream);
  check_wrt(grouped_vjp_op, grouped_names, options.wrt.x, options.wrt.b);
  check_dy(grouped_vjp_op, dy, {x.dim(0), b.dim(2)});
  return lower_gradients(
      grouped_vjp_op, grouped_names, with_dimension(dy, 1), x, b, product.operands, std::move(product.pairs),
      std::move(product.read),
      {.wrt = {.a = options.wrt.x, .b = options.wrt.b}, .stream = options.stream, .out = {options.out.x, options.out.b}});
}

}  // namespace gqmm::detail

namespace gqmm {

using namespace detail;

ResultType infer_gather_mm(const array& a, const array& b, const GatherMmOptions& options) {
  const DenseOperands operands = check_operands(product_op, a, b, options.stream);
  Shape pairs = pair_shape(product_op, {"a", "lhs_indices", operands.a_leading, address_of(options.lhs_indices)},
                           {"b", "rhs_indices", operands.b_leading, address_of(options.rhs_indices)});
  return {result_shape(std::move(pairs), a, b), promote(a.dtype(), b.dtype())};
}

}  // namespace gqmm
