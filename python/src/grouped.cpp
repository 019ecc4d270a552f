#include "grouped.hpp"

#include "arguments.hpp"
#include "arrays.hpp"
#include "define.hpp"
#include "gil.hpp"
#include "weights.hpp"
#include "wrt.hpp"

#include <gqmm/grouped.hpp>

#include <optional>
#include <string>
#include <utility>
#include <variant>

namespace gqmm::python {
namespace {

std::optional<Operand> import_out(const char* op, nb::handle out) {
  return out.is_none() ? std::nullopt : std::optional(import_writable_array({op, "out"}, out));
}

nb::object call_grouped_qmm(nb::handle x, nb::handle weights, nb::handle offsets, nb::handle rows, nb::handle precision,
                            nb::handle stream, nb::handle out) {
  constexpr const char* op = "grouped_qmm";
  const Operand x_operand = import_array({op, "x"}, x);
  const std::variant<WeightOperands, PackedWeights> weight_operands = import_weights_object(op, weights);
  const Operand offset_operand = import_array({op, "offsets"}, offsets);
  const std::optional<Operand> out_operand = import_out(op, out);
  const GroupedQmmOptions options{.rows = parse_missing({op, "rows"}, rows),
                                  .precision = parse_precision(op, precision),
                                  .stream = parse_stream(op, stream),
                                  .out = view_of(out_operand)};
  array result = without_gil([&] {
    return with_weights(weight_operands, [&](const auto& of_a_kind) {
      return grouped_qmm(x_operand.view, of_a_kind, offset_operand.view, options);
    });
  });
  return out_operand ? nb::borrow(out) : export_array(x, std::move(result));
}

nb::object call_grouped_mm(nb::handle x, nb::handle b, nb::handle offsets, nb::handle rows, nb::handle stream, nb::handle out) {
  constexpr const char* op = "grouped_mm";
  const Operand x_operand = import_array({op, "x"}, x);
  const Operand b_operand = import_array({op, "b"}, b);
  const Operand offset_operand = import_array({op, "offsets"}, offsets);
  const std::optional<Operand> out_operand = import_out(op, out);
  const GroupedMmOptions options{
      .rows = parse_missing({op, "rows"}, rows), .stream = parse_stream(op, stream), .out = view_of(out_operand)};
  array result = without_gil([&] { return grouped_mm(x_operand.view, b_operand.view, offset_operand.view, options); });
  return out_operand ? nb::borrow(out) : export_array(x, std::move(result));
}

nb::dict call_grouped_qmm_vjp(nb::handle dy, nb::handle x, nb::handle weights, nb::handle offsets, nb::handle rows,
                              nb::handle wrt_names, nb::handle stream) {
  constexpr const char* op = "grouped_qmm_vjp";
  const Wrt wrt(op, wrt_names, quantized_gradient_names);
  const Operand dy_operand = import_array({op, "dy"}, dy);
  const Operand x_operand = import_array({op, "x"}, x);
  const std::variant<WeightOperands, PackedWeights> weight_operands = import_weights_object(op, weights);
  const Operand offset_operand = import_array({op, "offsets"}, offsets);
  const GroupedQmmVjpOptions options{
      .rows = parse_missing({op, "rows"}, rows), .wrt = quantized_wrt(wrt), .stream = parse_stream(op, stream)};
  QuantizedGradients gradients = without_gil([&] {
    return with_weights(weight_operands, [&](const auto& of_a_kind) {
      return grouped_qmm_vjp(dy_operand.view, x_operand.view, of_a_kind, offset_operand.view, options);
    });
  });
  return to_dict(wrt, x, gradients);
}

nb::dict call_grouped_mm_vjp(nb::handle dy, nb::handle x, nb::handle b, nb::handle offsets, nb::handle rows, nb::handle wrt_names,
                             nb::handle stream) {
  constexpr const char* op = "grouped_mm_vjp";
  constexpr std::array<const char*, 2> names = {"x", "b"};
  const Wrt wrt(op, wrt_names, names);
  const Operand dy_operand = import_array({op, "dy"}, dy);
  const Operand x_operand = import_array({op, "x"}, x);
  const Operand b_operand = import_array({op, "b"}, b);
  const Operand offset_operand = import_array({op, "offsets"}, offsets);
  const GroupedMmVjpOptions options{.rows = parse_missing({op, "rows"}, rows),
                                    .wrt = {.x = wrt.has("x"), .b = wrt.has("b")},
                                    .stream = parse_stream(op, stream)};
  GroupedMmGradients gradients =
      without_gil([&] { return grouped_mm_vjp(dy_operand.view, x_operand.view, b_operand.view, offset_operand.view, options); });
  return wrt.to_dict(x,
                     [&](const std::string& name) -> std::optional<array>& { return name == "x" ? gradients.x : gradients.b; });
}

}  // namespace

void bind_grouped(nb::module_& m) {
  define(
      m, "grouped_qmm", &call_grouped_qmm,
      "def grouped_qmm(x: object, weights: object, offsets: object, rows: str, precision: str, stream: object, out: object, /) "
      "-> typing.Any");
  define(m, "grouped_mm", &call_grouped_mm,
         "def grouped_mm(x: object, b: object, offsets: object, rows: str, stream: object, out: object, /) -> typing.Any");
  define(
      m, "grouped_qmm_vjp", &call_grouped_qmm_vjp,
      "def grouped_qmm_vjp(dy: object, x: object, weights: object, offsets: object, rows: str, wrt: object, stream: object, /) "
      "-> dict[str, typing.Any]");
  define(m, "grouped_mm_vjp", &call_grouped_mm_vjp,
         "def grouped_mm_vjp(dy: object, x: object, b: object, offsets: object, rows: str, wrt: object, stream: object, /) "
         "-> dict[str, typing.Any]");
}

}  // namespace gqmm::python
