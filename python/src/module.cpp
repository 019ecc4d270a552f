// gqmm._gqmm: the operators as the gqmm package calls them, every argument given and positional; the package adds the public
// signatures and docstrings. Operands are read in place; the GIL is released while an operator runs.
#include "arguments.hpp"
#include "arrays.hpp"
#include "classes.hpp"
#include "gil.hpp"
#include "module_init.hpp"

#include <gqmm/gqmm.hpp>

#include <fmt/format.h>

#include <string>
#include <type_traits>
#include <utility>

namespace gqmm::python {
namespace {

std::optional<array> view_of(const std::optional<Operand>& operand) {
  return operand ? std::optional<array>(operand->view) : std::nullopt;
}

/// Optional array arguments of the products. They outlive the options, which only view them.
struct ProductOperands {
  std::optional<Operand> scales;
  std::optional<Operand> biases;
  std::optional<Operand> lhs_indices;
  std::optional<Operand> rhs_indices;
  std::optional<Operand> global_scale;

  void view_in(GatherQmmOptions& options) const {
    options.scales = view_of(scales);
    options.biases = view_of(biases);
    options.lhs_indices = view_of(lhs_indices);
    options.rhs_indices = view_of(rhs_indices);
    options.global_scale = view_of(global_scale);
  }
};

using ArrayProduct = array (*)(const array&, const array&, const GatherQmmOptions&);
using PackedProduct = array (*)(const array&, const PackedWeights&, const GatherQmmOptions&);

nb::object run_product(const char* op, ArrayProduct from_array, PackedProduct from_packed, nb::handle x, nb::handle w,
                       const GatherQmmOptions& options) {
  const Operand x_operand = import_array({op, "x"}, x);
  PackedWeights* packed = nullptr;
  if (nb::try_cast(w, packed) && packed != nullptr) {
    return export_array(x, without_gil([&] { return from_packed(x_operand.view, *packed, options); }));
  }
  const Operand w_operand = import_array({op, "w"}, w);
  return export_array(x, without_gil([&] { return from_array(x_operand.view, w_operand.view, options); }));
}

nb::object call_gather_qmm(nb::handle x, nb::handle w, nb::handle scales, nb::handle biases, nb::handle lhs_indices,
                           nb::handle rhs_indices, nb::handle transpose, nb::handle group_size, nb::handle bits, nb::handle mode,
                           nb::handle global_scale, nb::handle sorted_indices, nb::handle precision, nb::handle stream) {
  constexpr const char* op = "gather_qmm";
  const std::optional<Mode> parsed_mode = parse_optional_mode(op, mode);
  const ProductOperands operands{
      .scales = import_optional_scales(op, scales, parsed_mode),
      .biases = import_optional_array({op, "biases"}, biases),
      .lhs_indices = import_optional_array({op, "lhs_indices"}, lhs_indices),
      .rhs_indices = import_optional_array({op, "rhs_indices"}, rhs_indices),
      .global_scale = import_optional_array({op, "global_scale"}, global_scale),
  };
  GatherQmmOptions options{
      .transpose = parse_optional_bool({op, "transpose"}, transpose),
      .group_size = parse_optional_int({op, "group_size"}, group_size),
      .bits = parse_optional_int({op, "bits"}, bits),
      .mode = parsed_mode,
      .sorted_indices = parse_bool({op, "sorted_indices"}, sorted_indices),
      .precision = parse_precision(op, precision),
      .stream = parse_stream(op, stream),
  };
  operands.view_in(options);
  return run_product(op, gather_qmm, gather_qmm, x, w, options);
}

nb::object call_quantized_matmul(nb::handle x, nb::handle w, nb::handle scales, nb::handle biases, nb::handle transpose,
                                 nb::handle group_size, nb::handle bits, nb::handle mode, nb::handle precision,
                                 nb::handle stream) {
  constexpr const char* op = "quantized_matmul";
  const std::optional<Mode> parsed_mode = parse_optional_mode(op, mode);
  const ProductOperands operands{
      .scales = import_optional_scales(op, scales, parsed_mode),
      .biases = import_optional_array({op, "biases"}, biases),
      .lhs_indices = {},
      .rhs_indices = {},
      .global_scale = {},
  };
  GatherQmmOptions options{
      .transpose = parse_optional_bool({op, "transpose"}, transpose),
      .group_size = parse_optional_int({op, "group_size"}, group_size),
      .bits = parse_optional_int({op, "bits"}, bits),
      .mode = parsed_mode,
      .precision = parse_precision(op, precision),
      .stream = parse_stream(op, stream),
  };
  operands.view_in(options);
  return run_product(op, quantized_matmul, quantized_matmul, x, w, options);
}

nb::object call_gather_mm(nb::handle a, nb::handle b, nb::handle lhs_indices, nb::handle rhs_indices, nb::handle sorted_indices,
                          nb::handle stream) {
  constexpr const char* op = "gather_mm";
  const Operand a_operand = import_array({op, "a"}, a);
  const Operand b_operand = import_array({op, "b"}, b);
  const std::optional<Operand> lhs = import_optional_array({op, "lhs_indices"}, lhs_indices);
  const std::optional<Operand> rhs = import_optional_array({op, "rhs_indices"}, rhs_indices);
  const GatherMmOptions options{
      .lhs_indices = view_of(lhs),
      .rhs_indices = view_of(rhs),
      .sorted_indices = parse_bool({op, "sorted_indices"}, sorted_indices),
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
  Quantized result = without_gil([&] { return quantize(w_operand.view, options); });
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
  const Operand w_operand = import_array({op, "w"}, w);
  const Mode parsed_mode = parse_optional_mode(op, mode).value_or(Mode::affine);
  const Operand scales_operand = import_scales(op, scales, parsed_mode);
  const std::optional<Operand> biases_operand = import_optional_array({op, "biases"}, biases);
  const std::optional<Operand> global_scale_operand = import_optional_array({op, "global_scale"}, global_scale);
  const DequantizeOptions options{
      .biases = view_of(biases_operand),
      .group_size = parse_optional_int({op, "group_size"}, group_size),
      .bits = parse_optional_int({op, "bits"}, bits),
      .mode = parsed_mode,
      .global_scale = view_of(global_scale_operand),
      .dtype = parse_optional_dtype({op, "dtype"}, dtype),
      .stream = parse_stream(op, stream),
  };
  return export_array(w, without_gil([&] { return dequantize(w_operand.view, scales_operand.view, options); }));
}

PackedWeights call_pack(nb::handle w, nb::handle scales, nb::handle biases, nb::handle group_size, nb::handle bits,
                        nb::handle mode, nb::handle transpose, nb::handle global_scale, nb::handle stream) {
  constexpr const char* op = "pack";
  const Operand w_operand = import_array({op, "w"}, w);
  const Mode parsed_mode = parse_optional_mode(op, mode).value_or(Mode::affine);
  const Operand scales_operand = import_scales(op, scales, parsed_mode);
  const std::optional<Operand> biases_operand = import_optional_array({op, "biases"}, biases);
  const std::optional<Operand> global_scale_operand = import_optional_array({op, "global_scale"}, global_scale);
  const PackOptions options{
      .biases = view_of(biases_operand),
      .group_size = parse_optional_int({op, "group_size"}, group_size),
      .bits = parse_optional_int({op, "bits"}, bits),
      .mode = parsed_mode,
      .transpose = parse_optional_bool({op, "transpose"}, transpose).value_or(true),
      .global_scale = view_of(global_scale_operand),
      .stream = parse_stream(op, stream),
  };
  return without_gil([&] { return pack(w_operand.view, scales_operand.view, options); });
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
  UnpackedWeights result = without_gil([&] { return unpack(*packed); });
  const auto exported = [&](std::optional<array>& part) -> nb::object {
    return part ? export_array(like, *std::move(part)) : nb::none();
  };
  nb::object codes = export_array(like, std::move(result.w));
  nb::object scales = export_array(like, std::move(result.scales));
  return nb::make_tuple(codes, scales, exported(result.biases), exported(result.global_scale));
}

/// Any argument may be None: the parsers above judge it, and their messages name the operator and the argument.
template <class Result, class... Args>
void define(nb::module_& m, const char* name, Result (*function)(Args...), const char* signature) {
  const auto may_be_none = [](auto) { return nb::arg().none(); };
  m.def(name, function, nb::sig(signature), may_be_none(std::type_identity<Args>{})...);
}

void define_module(nb::module_& m) {
  // What a program still holds when it ends is not worth a warning to its user.
  nb::set_leak_warnings(false);
  m.doc() = "Compiled part of gqmm. Use the functions of the package gqmm, which document it.";
  bind_classes(m);
  bind_result(m);
  define(m, "gather_qmm", &call_gather_qmm,
         "def gather_qmm(x: object, w: object, scales: object, biases: object, lhs_indices: object, rhs_indices: object, "
         "transpose: bool | None, group_size: int | None, bits: int | None, mode: str | None, global_scale: object, "
         "sorted_indices: bool, precision: str, stream: object, /) -> typing.Any");
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
  define(m, "unpack", &call_unpack, "def unpack(w: object, like: object, /) -> tuple[typing.Any, ...]");
}

}  // namespace
}  // namespace gqmm::python

NB_MODULE(_gqmm_bindings, m) { gqmm::python::define_once(m, "gqmm._gqmm", gqmm::python::define_module); }

/// What Python calls: nanobind's own function, behind a check of the interpreter.
extern "C" NB_EXPORT PyObject* PyInit__gqmm() {
  return gqmm::python::is_main_interpreter("gqmm") ? PyInit__gqmm_bindings() : nullptr;
}
