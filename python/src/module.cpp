// The extension module gqmm._gqmm, with the operators as the gqmm package calls them. The package gives every argument by
// position, and adds the public signatures and docstrings. Operands are read in place. The GIL is released while an operator
// runs.
#include "arguments.hpp"
#include "arrays.hpp"
#include "classes.hpp"
#include "define.hpp"
#include "dispatch.hpp"
#include "expert_layer.hpp"
#include "gil.hpp"
#include "gradients.hpp"
#include "grouped.hpp"
#include "layers.hpp"
#include "module_init.hpp"
#include "moe.hpp"
#include "weights.hpp"

#include "formats/registry.hpp"
#include "formats/texts.hpp"

#include <gqmm/gqmm.hpp>

#include <fmt/format.h>

#include <string>
#include <utility>
#include <variant>

namespace gqmm::python {
namespace {

/// Runs `multiply(x, weights)` for weights of any kind.
template <class Multiply>
nb::object run_product(const char* op, nb::handle x, const WeightArguments& arguments, Multiply multiply) {
  const Operand x_operand = import_array({op, "x"}, x);
  const std::variant<WeightOperands, PackedWeights> weights = import_weights(op, arguments);
  return export_array(x, without_gil([&] {
                        return with_weights(weights, [&](const auto& of_a_kind) { return multiply(x_operand.view, of_a_kind); });
                      }));
}

nb::object call_gather_qmm(nb::handle x, nb::handle w, nb::handle scales, nb::handle biases, nb::handle lhs_indices,
                           nb::handle rhs_indices, nb::handle transpose, nb::handle group_size, nb::handle bits, nb::handle mode,
                           nb::handle global_scale, nb::handle sorted_indices, nb::handle missing, nb::handle precision,
                           nb::handle stream) {
  constexpr const char* op = "gather_qmm";
  const IndexOperands indices = import_indices(op, lhs_indices, rhs_indices, sorted_indices);
  const GatherQmmOptions options{
      .lhs_indices = view_of(indices.lhs),
      .rhs_indices = view_of(indices.rhs),
      .sorted_indices = indices.sorted,
      .missing = parse_missing({op, "missing"}, missing),
      .precision = parse_precision(op, precision),
      .stream = parse_stream(op, stream),
  };
  const WeightArguments arguments = {.w = w,
                                     .scales = scales,
                                     .biases = biases,
                                     .global_scale = global_scale,
                                     .group_size = group_size,
                                     .bits = bits,
                                     .mode = mode,
                                     .transpose = transpose};
  return run_product(op, x, arguments,
                     [&](const array& rows, const auto& weights) { return gather_qmm(rows, weights, options); });
}

nb::object call_quantized_matmul(nb::handle x, nb::handle w, nb::handle scales, nb::handle biases, nb::handle transpose,
                                 nb::handle group_size, nb::handle bits, nb::handle mode, nb::handle precision,
                                 nb::handle stream) {
  constexpr const char* op = "quantized_matmul";
  const QuantizedMatmulOptions options{
      .precision = parse_precision(op, precision),
      .stream = parse_stream(op, stream),
  };
  const WeightArguments arguments = {
      .w = w, .scales = scales, .biases = biases, .group_size = group_size, .bits = bits, .mode = mode, .transpose = transpose};
  return run_product(op, x, arguments,
                     [&](const array& rows, const auto& weights) { return quantized_matmul(rows, weights, options); });
}

nb::object call_gather_mm(nb::handle a, nb::handle b, nb::handle lhs_indices, nb::handle rhs_indices, nb::handle sorted_indices,
                          nb::handle stream) {
  constexpr const char* op = "gather_mm";
  const Operand a_operand = import_array({op, "a"}, a);
  const Operand b_operand = import_array({op, "b"}, b);
  const IndexOperands indices = import_indices(op, lhs_indices, rhs_indices, sorted_indices);
  const GatherMmOptions options{
      .lhs_indices = view_of(indices.lhs),
      .rhs_indices = view_of(indices.rhs),
      .sorted_indices = indices.sorted,
      .stream = parse_stream(op, stream),
  };
  return export_array(a, without_gil([&] { return gather_mm(a_operand.view, b_operand.view, options); }));
}

nb::tuple call_quantize(nb::handle w, nb::handle group_size, nb::handle bits, nb::handle mode, nb::handle global_scale,
                        nb::handle stream) {
  constexpr const char* op = "quantize";
  const Operand w_operand = import_array({op, "w"}, w);
  const std::optional<Operand> global_scale_operand = import_optional_array({op, "global_scale"}, global_scale);
  const QuantizeOptions options{
      .group_size = parse_optional_int({op, "group_size"}, group_size),
      .bits = parse_optional_int({op, "bits"}, bits),
      .mode = parse_optional_mode(op, mode).value_or(Mode::affine),
      .global_scale = view_of(global_scale_operand),
      .stream = parse_stream(op, stream),
  };
  QuantizedWeights result = without_gil([&] { return quantize(w_operand.view, options); });
  nb::object codes = export_array(w, std::move(result.w));
  nb::object scales = export_array(w, std::move(result.scales));
  if (!result.biases) {
    return nb::make_tuple(codes, scales);
  }
  return nb::make_tuple(codes, scales, export_array(w, *std::move(result.biases)));
}

nb::object call_dequantize(nb::handle w, nb::handle scales, nb::handle biases, nb::handle group_size, nb::handle bits,
                           nb::handle mode, nb::handle global_scale, nb::handle dtype, nb::handle stream) {
  constexpr const char* op = "dequantize";
  const WeightOperands operands = import_quantized_weights(op, {.w = w,
                                                                .scales = scales,
                                                                .biases = biases,
                                                                .global_scale = global_scale,
                                                                .group_size = group_size,
                                                                .bits = bits,
                                                                .mode = mode});
  const DequantizeOptions options{
      .dtype = parse_optional_dtype({op, "dtype"}, dtype),
      .stream = parse_stream(op, stream),
  };
  return export_array(operands.w, without_gil([&] { return dequantize(operands.weights, options); }));
}

PackedWeights call_pack(nb::handle w, nb::handle scales, nb::handle biases, nb::handle group_size, nb::handle bits,
                        nb::handle mode, nb::handle transpose, nb::handle global_scale, nb::handle stream) {
  constexpr const char* op = "pack";
  const WeightOperands operands = import_quantized_weights(op, {.w = w,
                                                                .scales = scales,
                                                                .biases = biases,
                                                                .global_scale = global_scale,
                                                                .group_size = group_size,
                                                                .bits = bits,
                                                                .mode = mode,
                                                                .transpose = transpose});
  const PackOptions options{.stream = parse_stream(op, stream)};
  return without_gil([&] { return pack(operands.weights, options); });
}

nb::tuple call_unpack(nb::handle w, nb::handle like) {
  constexpr const char* op = "unpack";
  PackedWeights* packed = nullptr;
  if (!nb::try_cast(w, packed) || packed == nullptr) {
    throw nb::type_error(
        fmt::format("[{}] w: expected PackedWeights, got {}", op, nb::cast<std::string>(nb::str(w.type().attr("__name__"))))
            .c_str());
  }
  import_optional_array({op, "like"}, like);  // raises unless it is an array or None
  QuantizedWeights result = without_gil([&] { return unpack(*packed); });
  const auto exported = [&](std::optional<array>& part) -> nb::object {
    return part ? export_array(like, *std::move(part)) : nb::none();
  };
  nb::object codes = export_array(like, std::move(result.w));
  nb::object scales = export_array(like, std::move(result.scales));
  return nb::make_tuple(codes, scales, exported(result.biases), exported(result.global_scale));
}

/// Lists every format, as a tuple of the fields of gqmm.Format.
nb::list call_formats() {
  nb::list result;
  for (const detail::Format& format : detail::formats()) {
    nb::list group_sizes;
    for (const int group_size : format.group_sizes) {
      group_sizes.append(group_size);
    }
    const std::string scales = float8_name(format.scale_encoding);
    const std::string codes = format.float_code ? name_of(*format.float_code) : fmt::format("uint{}", format.bits);
    result.append(nb::make_tuple(std::string(format.mode_name), format.bits, nb::tuple(group_sizes), format.default_group_size,
                                 format.is_default, codes, scales.empty() ? nb::none() : nb::cast(scales), format.has_biases,
                                 format.has_global_scale));
  }
  return result;
}

/// Returns the texts about formats that docstrings contain. The keys are the placeholders that docstrings have for them.
nb::dict call_format_texts() {
  nb::dict texts;
  texts["modes"] = detail::list_of_modes();
  texts["bits"] = detail::list_of_bits();
  texts["group_sizes"] = detail::list_of_group_sizes();
  texts["modes_with_global_scale"] = detail::list_of_modes_with_global_scale();
  texts["scale_types"] = detail::list_of_scale_types();
  return texts;
}

void define_module(nb::module_& m) {
  // nanobind would warn of each object that a program still holds when it ends. Its user could do nothing about that.
  nb::set_leak_warnings(false);
  m.doc() = "The compiled part of gqmm. Use the functions of the package gqmm, which document it.";
  bind_classes(m);
  bind_result(m);
  define(m, "gather_qmm", &call_gather_qmm,
         "def gather_qmm(x: object, w: object, scales: object, biases: object, lhs_indices: object, rhs_indices: object, "
         "transpose: bool | None, group_size: int | None, bits: int | None, mode: str | None, global_scale: object, "
         "sorted_indices: bool, missing: str, precision: str, stream: object, /) -> typing.Any");
  define(m, "quantized_matmul", &call_quantized_matmul,
         "def quantized_matmul(x: object, w: object, scales: object, biases: object, transpose: bool | None, "
         "group_size: int | None, bits: int | None, mode: str | None, precision: str, stream: object, /) -> typing.Any");
  define(m, "gather_mm", &call_gather_mm,
         "def gather_mm(a: object, b: object, lhs_indices: object, rhs_indices: object, sorted_indices: bool, "
         "stream: object, /) -> typing.Any");
  define(m, "quantize", &call_quantize,
         "def quantize(w: object, group_size: int | None, bits: int | None, mode: str | None, global_scale: object, "
         "stream: object, /) -> tuple[typing.Any, ...]");
  define(m, "dequantize", &call_dequantize,
         "def dequantize(w: object, scales: object, biases: object, group_size: int | None, bits: int | None, "
         "mode: str | None, global_scale: object, dtype: object, stream: object, /) -> typing.Any");
  define(m, "pack", &call_pack,
         "def pack(w: object, scales: object, biases: object, group_size: int | None, bits: int | None, "
         "mode: str | None, transpose: bool | None, global_scale: object, stream: object, /) -> PackedWeights");
  bind_dispatch(m);
  bind_expert_layer(m);
  bind_gradients(m);
  bind_grouped(m);
  bind_layers(m);
  bind_moe(m);
  define(m, "formats", &call_formats,
         "def formats() -> list[tuple[str, int, tuple[int, ...], int, bool, str, str | None, bool, bool]]");
  define(m, "format_texts", &call_format_texts, "def format_texts() -> dict[str, str]");
  define(m, "unpack", &call_unpack, "def unpack(w: object, like: object, /) -> tuple[typing.Any, ...]");
}

}  // namespace
}  // namespace gqmm::python

NB_MODULE(_gqmm_bindings, m) { gqmm::python::define_once(m, "gqmm._gqmm", gqmm::python::define_module); }

/// The function that Python calls to import the module. It calls nanobind's own function after a check of the interpreter.
extern "C" NB_EXPORT PyObject* PyInit__gqmm() {
  return gqmm::python::is_main_interpreter("gqmm") ? PyInit__gqmm_bindings() : nullptr;
}
