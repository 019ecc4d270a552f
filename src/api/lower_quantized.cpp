// gather_qmm, quantized_matmul and grouped_qmm, over weights in place and packed, and their gradients: one Problem each.
#include "api/check.hpp"
#include "api/gradients.hpp"
#include "api/indices.hpp"
#include "api/lower.hpp"
#include "api/output.hpp"
#include "api/weight_source.hpp"
#include "arrays/views.hpp"

#include <optional>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace gqmm::detail {
namespace {

constexpr std::string_view gather_op = "gather_qmm";
constexpr std::string_view matmul_op = "quantized_matmul";
constexpr std::string_view gather_vjp_op = "gather_qmm_vjp";
constexpr std::string_view matmul_vjp_op = "quantized_matmul_vjp";
constexpr std::string_view grouped_op = "grouped_qmm";
constexpr std::string_view grouped_vjp_op = "grouped_qmm_vjp";

/// x as a batch of matrices. A vector is a matrix of one row.
struct Activations {
  array x;
  bool is_vector = false;
};

Activations check_gather_activations(std::string_view op, const array& x) {
  check_compute_float(op, "x", x);
  if (x.rank() < 2) {
    fail(op, "x has shape {}; it needs at least two dimensions, (..., M, K): reshape it to (1, K) for a single row",
         to_string(x.shape()));
  }
  return {x};
}

Activations check_matmul_activations(std::string_view op, const array& x) {
  check_compute_float(op, "x", x);
  if (x.rank() == 0) {
    fail(op, "x is a scalar; it needs at least one dimension, (K,)");
  }
  if (x.rank() > 1) {
    return {x};
  }
  return {array::borrow(x.bytes(), {1, x.dim(0)}, x.dtype(), {0, x.stride(0)}, x.owner()), true};
}

/// The common form of the options. A product without indices has the other options of gather_qmm.
GatherQmmOptions without_indices(const QuantizedMatmulOptions& options) {
  return {.precision = options.precision, .stream = options.stream, .out = options.out};
}

/// Checks the weights against x.
WeightSource source_for(std::string_view op, const Activations& activations, AnyWeights weights, const Stream& stream) {
  check_stream(op, stream);
  return source_of(op, weights, activations.x.dim(-1));
}

/// Returns the shape of the result for pairs of this shape.
Shape result_shape(Shape pairs, const Activations& activations, const WeightSource& source) {
  if (!activations.is_vector) {
    pairs.push_back(activations.x.dim(-2));
  }
  pairs.push_back(source.extents.N);
  return pairs;
}

ResultType infer(std::string_view op, const Activations& activations, AnyWeights weights, const GatherQmmOptions& options) {
  const WeightSource source = source_for(op, activations, weights, options.stream);
  const Shape x_leading = leading_shape(activations.x);
  Shape pairs = pair_shape(op, {"x", "lhs_indices", x_leading, address_of(options.lhs_indices)},
                           {"w", "rhs_indices", source.leading, address_of(options.rhs_indices), options.missing});
  return {result_shape(std::move(pairs), activations, source), result_dtype(source, activations.x.dtype())};
}

Pairs resolve_pairs(std::string_view op, const Activations& activations, const WeightSource& source,
                    const GatherQmmOptions& options) {
  const Shape x_leading = leading_shape(activations.x);
  return detail::resolve_pairs(op, {"x", "lhs_indices", x_leading, address_of(options.lhs_indices)},
                               {"w", "rhs_indices", source.leading, address_of(options.rhs_indices), options.missing},
                               options.sorted_indices);
}

/// The arrays that a call reads.
std::vector<NamedOperand> operands_of(const array& x, const WeightSource& source, const GatherQmmOptions& options) {
  const auto of_weights = detail::operands_of(source);
  std::vector<NamedOperand> operands = {{"x", &x}};
  operands.insert(operands.end(), of_weights.begin(), of_weights.end());
  operands.push_back({"lhs_indices", address_of(options.lhs_indices)});
  operands.push_back({"rhs_indices", address_of(options.rhs_indices)});
  return operands;
}

/// All of a product but x and the result.
Lowered lower_weights(const Activations& activations, const WeightSource& source, Pairs pairs, const Stream& stream) {
  Lowered lowered;
  lowered.lhs = std::move(pairs.lhs);
  lowered.rhs = std::move(pairs.rhs);

  Problem& problem = lowered.problem;
  problem.M = activations.x.dim(-2);
  problem.N = source.extents.N;
  problem.K = source.extents.K;
  problem.weights = matrices_of(source, lowered.rhs, lowered);
  problem.lhs = lowered.lhs;
  problem.rhs = lowered.rhs;
  problem.sorted = pairs.sorted;
  problem.threads = stream.threads;
  return lowered;
}

/// A product whose arguments have been checked, apart from `options.out`, which may not overlap the arrays `read`.
Lowered lower(std::string_view op, const Activations& activations, const WeightSource& source, Pairs pairs, const Shape& shape,
              const std::vector<NamedOperand>& read, const GatherQmmOptions& options) {
  array result = make_result(op, shape, result_dtype(source, activations.x.dtype()), options.out, read);
  Lowered lowered = lower_weights(activations, source, std::move(pairs), options.stream);
  lowered.result = std::move(result);

  Problem& problem = lowered.problem;
  problem.x = lowered.contiguous(activations.x, lowered.lhs);
  problem.y = lowered.result.mutable_bytes();
  problem.y_dtype = lowered.result.dtype();
  problem.slices = slices_for(options.precision, problem.y_dtype);
  return lowered;
}

Lowered lower(std::string_view op, const Activations& activations, AnyWeights weights, const GatherQmmOptions& options) {
  const WeightSource source = source_for(op, activations, weights, options.stream);
  Pairs pairs = resolve_pairs(op, activations, source, options);
  const Shape shape = result_shape(pairs.shape, activations, source);
  const auto read = options.out ? operands_of(activations.x, source, options) : std::vector<NamedOperand>();
  return lower(op, activations, source, std::move(pairs), shape, read, options);
}

void check_wrt(std::string_view op, const QuantizedWrt& wrt, const Format& format) {
  if (!wrt.x && !wrt.scales && !wrt.biases) {
    fail(op, "wrt is empty; ask for the gradient of x, scales or biases");
  }
  if ((wrt.scales || wrt.biases) && format.scale_encoding != ScaleEncoding::floating) {
    fail(op, "wrt has {} but mode \"{}\" has no gradient of {}; ask for that of x alone", wrt.scales ? "scales" : "biases",
         name_of(format.mode), wrt.scales ? "scales, which are codes" : "biases");
  }
}

/// Shape and types of the scales and biases that the caller has, or had when it packed them.
struct GroupArrays {
  Shape shape;
  Dtype scales;
  Dtype biases;
};

GroupArrays group_arrays_of(const WeightSource& source) {
  if (source.in_place != nullptr) {
    const QuantizedWeights& weights = *source.in_place;
    return {weights.scales.shape(), weights.scales.dtype(), weights.biases ? weights.biases->dtype() : Dtype::float32};
  }
  Shape shape = source.packed->shape;
  shape.back() /= source.settings.group_size;
  return {std::move(shape), source.packed->scales.dtype(), source.packed->biases.dtype()};
}

/// The gradients of a product whose arguments have been checked, apart from `options.out`. `x`: as the caller has
/// it. `dy`: with the dimensions that a product of matrices has. `read`: the arrays that the product reads, x first.
LoweredGradients lower_gradients(std::string_view op, const array& dy, const array& x, const Activations& activations,
                                 const WeightSource& source, Pairs pairs, std::vector<NamedOperand> read,
                                 const GatherQmmVjpOptions& options) {
  LoweredGradients lowered;
  read.push_back({"dy", &dy});
  if (!options.wrt.scales && !options.wrt.biases) {
    read.front().operand = nullptr;  // x is not read: it may have no memory, and may be written
  }
  const GroupArrays groups = group_arrays_of(source);
  const QuantizedWrt& wrt = options.wrt;
  lowered.quantized.x = make_gradient(op, {"x", wrt.x, {x.shape(), x.dtype()}, options.out.x}, read);
  lowered.quantized.scales = make_gradient(op, {"scales", wrt.scales, {groups.shape, groups.scales}, options.out.scales}, read);
  lowered.quantized.biases = make_gradient(op, {"biases", wrt.biases, {groups.shape, groups.biases}, options.out.biases}, read);

  lowered.operands = lower_weights(activations, source, std::move(pairs), options.stream);
  GradientProblem& problem = lowered.problem;
  attach_operands(lowered, dy, activations.x, wrt.scales || wrt.biases);
  problem.x = memory_of(lowered.quantized.x);
  problem.scales = memory_of(lowered.quantized.scales);
  problem.biases = memory_of(lowered.quantized.biases);
  return lowered;
}

LoweredGradients lower_gradients(std::string_view op, const array& dy, const array& x, const Activations& activations,
                                 AnyWeights weights, const GatherQmmVjpOptions& options) {
  const WeightSource source = source_for(op, activations, weights, options.stream);
  check_wrt(op, options.wrt, *source.settings.format);
  const GatherQmmOptions indices = {.lhs_indices = options.lhs_indices,
                                    .rhs_indices = options.rhs_indices,
                                    .sorted_indices = options.sorted_indices,
                                    .missing = options.missing};
  Pairs pairs = resolve_pairs(op, activations, source, indices);
  check_dy(op, dy, result_shape(pairs.shape, activations, source));
  return lower_gradients(op, activations.is_vector ? with_dimension(dy, dy.rank() - 1) : dy, x, activations, source,
                         std::move(pairs), operands_of(x, source, indices), options);
}

/// Sorted rows, each a matrix of its own, and their weights.
struct GroupedQmm {
  Activations activations;
  WeightSource source;
  Pairs pairs;
  std::vector<NamedOperand> read;
};

GroupedQmm check_grouped(std::string_view op, const array& x, AnyWeights weights, const array& offsets, Missing rows,
                         const Stream& stream) {
  check_compute_float(op, "x", x);
  if (x.rank() != 2) {
    fail(op, "x has shape {}; it must have two dimensions, (R, K)", to_string(x.shape()));
  }
  GroupedQmm product = {.activations = {with_dimension(x, 1)}, .source = {}, .pairs = {}, .read = {}};
  product.source = source_for(op, product.activations, weights, stream);
  if (product.source.leading.size() != 1) {
    fail(op, "weights has {} leading dimensions; it must have one, which counts experts", product.source.leading.size());
  }
  product.pairs = grouped_pairs(op, offsets, x.dim(0), product.source.leading.front(), rows);
  product.read = operands_of(x, product.source, {});
  product.read.push_back({"offsets", &offsets});
  return product;
}

/// The gradients' common form, as without_indices.
GatherQmmVjpOptions without_indices(const QuantizedMatmulVjpOptions& options) {
  return {.wrt = options.wrt, .stream = options.stream, .out = options.out};
}

}  // namespace

Lowered lower_gather_qmm(const array& x, AnyWeights weights, const GatherQmmOptions& options) {
  return lower(gather_op, check_gather_activations(gather_op, x), weights, options);
}

Lowered lower_quantized_matmul(const array& x, AnyWeights weights, const QuantizedMatmulOptions& options) {
  return lower(matmul_op, check_matmul_activations(matmul_op, x), weights, without_indices(options));
}

LoweredGradients lower_gather_qmm_vjp(const array& dy, const array& x, AnyWeights weights, const GatherQmmVjpOptions& options) {
  return lower_gradients(gather_vjp_op, dy, x, check_gather_activations(gather_vjp_op, x), weights, options);
}

LoweredGradients lower_quantized_matmul_vjp(const array& dy, const array& x, AnyWeights weights,
                                            const QuantizedMatmulVjpOptions& options) {
  return lower_gradients(matmul_vjp_op, dy, x, check_matmul_activations(matmul_vjp_op, x), weights, without_indices(options));
}

Lowered lower_grouped_qmm(const array& x, AnyWeights weights, const array& offsets, const GroupedQmmOptions& options) {
  GroupedQmm product = check_grouped(grouped_op, x, weights, offsets, options.rows, options.stream);
  const Shape shape = {x.dim(0), product.source.extents.N};
  return lower(grouped_op, product.activations, product.source, std::move(product.pairs), shape, product.read,
               {.precision = options.precision, .stream = options.stream, .out = options.out});
}

LoweredGradients lower_grouped_qmm_vjp(const array& dy, const array& x, AnyWeights weights, const array& offsets,
                                       const GroupedQmmVjpOptions& options) {
  GroupedQmm product = check_grouped(grouped_vjp_op, x, weights, offsets, options.rows, options.stream);
  check_wrt(grouped_vjp_op, options.wrt, *product.source.settings.format);
  check_dy(grouped_vjp_op, dy, {x.dim(0), product.source.extents.N});
  return lower_gradients(grouped_vjp_op, with_dimension(dy, 1), x, product.activations, product.source, std::move(product.pairs),
                         std::move(product.read), {.wrt = options.wrt, .stream = options.stream, .out = options.out});
}

}  // namespace gqmm::detail

namespace gqmm {

using namespace detail;

ResultType infer_gather_qmm(const array& x, const QuantizedWeights& weights, const GatherQmmOptions& options) {
  return infer(gather_op, check_gather_activations(gather_op, x), weights, options);
}

ResultType infer_gather_qmm(const array& x, const PackedWeights& weights, const GatherQmmOptions& options) {
  return infer(gather_op, check_gather_activations(gather_op, x), weights, options);
}

ResultType infer_quantized_matmul(const array& x, const QuantizedWeights& weights, const QuantizedMatmulOptions& options) {
  return infer(matmul_op, check_matmul_activations(matmul_op, x), weights, without_indices(options));
}

ResultType infer_quantized_matmul(const array& x, const PackedWeights& weights, const QuantizedMatmulOptions& options) {
  return infer(matmul_op, check_matmul_activations(matmul_op, x), weights, without_indices(options));
}

}  // namespace gqmm
