#include "gradients.hpp"

#include "arguments.hpp"
#include "arrays.hpp"
#include "define.hpp"
#include "gil.hpp"
#include "weights.hpp"
#include "wrt.hpp"

#include <gqmm/gradients.hpp>

#include <array>
#include <optional>
#include <string>
#include <variant>

namespace gqmm::python {
namespace {

constexpr std::array<const char*, 2> dense_names = {"a", "b"};

/// Runs `vjp(dy, x, weights)` for weights of any kind.
template <class Vjp>
nb::dict run_vjp(const char* op, nb::handle dy, nb::handle x, nb::handle weights, const Wrt& wrt, Vjp vjp) {
  const Operand dy_operand = import_array({op, "dy"}, dy);
  const Operand x_operand = import_array({op, "x"}, x);
  const std::variant<WeightOperands, PackedWeights> operands = import_weights_object(op, weights);
  QuantizedGradients gradients = without_gil([&] {
    return with_weights(operands, [&](const auto& of_a_kind) { return vjp(dy_operand.view, x_operand.view, of_a_kind); });
  });
  return to_dict(wrt, x, gradients);
}

nb::dict call_gather_qmm_vjp(nb::handle dy, nb::handle x, nb::handle weights, nb::handle lhs_indices, nb::handle rhs_indices,
                             nb::handle sorted_indices, nb::handle missing, nb::handle wrt_names, nb::handle stream) {
  constexpr const char* op = "gather_qmm_vjp";
  const Wrt wrt(op, wrt_names, quantized_gradient_names);
  const IndexOperands indices = import_indices(op, lhs_indices, rhs_indices, sorted_indices);
  const GatherQmmVjpOptions options{
      .lhs_indices = view_of(indices.lhs),
      .rhs_indices = view_of(indices.rhs),
      .sorted_indices = indices.sorted,
      .missing = parse_missing({op, "missing"}, missing),
      .wrt = quantized_wrt(wrt),
      .stream = parse_stream(op, stream),
  };
  return run_vjp(op, dy, x, weights, wrt, [&](const array& gradient, const array& rows, const auto& matrices) {
    return gather_qmm_vjp(gradient, rows, matrices, options);
  });
}

nb::dict call_quantized_matmul_vjp(nb::handle dy, nb::handle x, nb::handle weights, nb::handle wrt_names, nb::handle stream) {
  constexpr const char* op = "quantized_matmul_vjp";
  const Wrt wrt(op, wrt_names, quantized_gradient_names);
  const QuantizedMatmulVjpOptions options{.wrt = quantized_wrt(wrt), .stream = parse_stream(op, stream)};
  return run_vjp(op, dy, x, weights, wrt, [&](const array& gradient, const array& rows, const auto& matrices) {
    return quantized_matmul_vjp(gradient, rows, matrices, options);
  });
}

nb::dict call_gather_mm_vjp(nb::handle dy, nb::handle a, nb::handle b, nb::handle lhs_indices, nb::handle rhs_indices,
                            nb::handle sorted_indices, nb::handle wrt_names, nb::handle stream) {
  constexpr const char* op = "gather_mm_vjp";
  const Wrt wrt(op, wrt_names, dense_names);
  const Operand dy_operand = import_array({op, "dy"}, dy);
  const Operand a_operand = import_array({op, "a"}, a);
  const Operand b_operand = import_array({op, "b"}, b);
  const IndexOperands indices = import_indices(op, lhs_indices, rhs_indices, sorted_indices);
  const GatherMmVjpOptions options{
      .lhs_indices = view_of(indices.lhs),
      .rhs_indices = view_of(indices.rhs),
      .sorted_indices = indices.sorted,
      .wrt = {.a = wrt.has("a"), .b = wrt.has("b")},
      .stream = parse_stream(op, stream),
  };
  DenseGradients gradients = without_gil([&] { return gather_mm_vjp(dy_operand.view, a_operand.view, b_operand.view, options); });
  return wrt.to_dict(a,
                     [&](const std::string& name) -> std::optional<array>& { return name == "a" ? gradients.a : gradients.b; });
}

}  // namespace

void bind_gradients(nb::module_& m) {
  define(m, "gather_qmm_vjp", &call_gather_qmm_vjp,
         "def gather_qmm_vjp(dy: object, x: object, weights: object, lhs_indices: object, rhs_indices: object, "
         "sorted_indices: bool, missing: str, wrt: object, stream: object, /) -> dict[str, typing.Any]");
  define(m, "quantized_matmul_vjp", &call_quantized_matmul_vjp,
         "def quantized_matmul_vjp(dy: object, x: object, weights: object, wrt: object, stream: object, /) "
         "-> dict[str, typing.Any]");
  define(m, "gather_mm_vjp", &call_gather_mm_vjp,
         "def gather_mm_vjp(dy: object, a: object, b: object, lhs_indices: object, rhs_indices: object, "
         "sorted_indices: bool, wrt: object, stream: object, /) -> dict[str, typing.Any]");
}

}  // namespace gqmm::python
