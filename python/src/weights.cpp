#include "weights.hpp"

#include "arguments.hpp"
#include "beside_weights.hpp"
#include "sealed_class.hpp"

#include <fmt/format.h>
#include <nanobind/stl/string_view.h>

#include <array>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace gqmm::python {
namespace {

GivenSettings parse_settings(const char* op, const WeightArguments& arguments) {
  return {.mode = parse_optional_mode(op, arguments.mode),
          .bits = parse_optional_int({op, "bits"}, arguments.bits),
          .group_size = parse_optional_int({op, "group_size"}, arguments.group_size),
          .transpose = parse_optional_bool({op, "transpose"}, arguments.transpose)};
}

/// The C++ value of gqmm.QuantizedWeights. It holds the Python arrays and no views of their memory, because a library may give an
/// array other memory. Each call views the arrays again.
struct HeldWeights {
  nb::object w;
  nb::object scales;
  nb::object biases;
  nb::object global_scale;
  Mode mode;
  int bits;
  int group_size;
  bool transpose;
  Shape shape;
  std::size_t nbytes;
};

/// What is wanted of the arrays: their values, or their shapes and types alone.
enum class Reading : std::uint8_t { values, outlines };

WeightOperands view_arrays(const char* op, nb::handle w, nb::handle scales, nb::handle biases, nb::handle global_scale,
                           const GivenSettings& settings, Reading reading = Reading::values) {
  const bool values = reading == Reading::values;
  const auto import = [&](const char* name, nb::handle a) {
    return values ? import_array({op, name}, a) : import_outline({op, name}, a);
  };
  WeightOperands operands{.weights = {.mode = settings.mode.value_or(Mode::affine),
                                      .bits = settings.bits,
                                      .group_size = settings.group_size,
                                      .transpose = settings.transpose.value_or(true)},
                          .keep = {},
                          .w = nb::borrow(w)};
  QuantizedWeights& weights = operands.weights;
  const auto view = [&operands](Operand operand) {
    operands.keep.push_back(std::move(operand.keep));
    return std::move(operand.view);
  };
  weights.w = view(import("w", w));
  if (!scales.is_none()) {
    weights.scales = view(values ? import_scales(op, scales, weights.mode) : import_outline_of_scales(op, scales, weights.mode));
  }
  if (!biases.is_none()) {
    weights.biases = view(import("biases", biases));
  }
  if (!global_scale.is_none()) {
    weights.global_scale = view(import("global_scale", global_scale));
  }
  return operands;
}

WeightOperands view_of(const char* op, const HeldWeights& held) {
  return view_arrays(op, held.w, held.scales, held.biases, held.global_scale,
                     {.mode = held.mode, .bits = held.bits, .group_size = held.group_size, .transpose = held.transpose});
}

std::string repr_of(nb::handle object) { return nb::cast<std::string>(nb::repr(object)); }

/// Throws std::invalid_argument if a call has an array, or another setting, beside gqmm.QuantizedWeights.
void check_beside(const char* op, const HeldWeights& held, const WeightArguments& arguments) {
  const std::array<std::pair<const char*, std::pair<nb::handle, nb::handle>>, 3> arrays = {
      {{"scales", {arguments.scales, held.scales}},
       {"biases", {arguments.biases, held.biases}},
       {"global_scale", {arguments.global_scale, held.global_scale}}}};
  for (const auto& [name, given_and_own] : arrays) {
    const auto& [given, own] = given_and_own;
    if (!given.is_none()) {
      fail_array_beside_quantized(op, name, repr_of(arguments.w), !own.is_none());
    }
  }
  check_settings_beside_quantized(
      op, parse_settings(op, arguments),
      {.mode = held.mode, .bits = held.bits, .group_size = held.group_size, .transpose = held.transpose});
}

/// Returns the packed weights with the global scale of the call, if it has one. Throws std::invalid_argument if the call has
/// scales, biases or other settings beside them.
PackedWeights with_arguments(const char* op, const PackedWeights& packed, const WeightArguments& arguments) {
  for (const auto& [name, given] : {std::pair("scales", arguments.scales), {"biases", arguments.biases}}) {
    if (!given.is_none()) {
      throw std::invalid_argument(fmt::format("[{}] {} is given but w is packed and holds its own; leave it out", op, name));
    }
  }
  check_settings_beside(
      op, parse_settings(op, arguments),
      {.mode = packed.mode(), .bits = packed.bits(), .group_size = packed.group_size(), .transpose = packed.transpose()},
      "was packed with", "leave it out or pack again");
  if (arguments.global_scale.is_none()) {
    return packed;
  }
  const Operand global_scale = import_array({op, "global_scale"}, arguments.global_scale);
  return packed.with_global_scale(global_scale.view, op);
}

void make_held_weights(HeldWeights* self, nb::handle w, nb::handle scales, nb::handle biases, nb::handle global_scale,
                       nb::handle group_size, nb::handle bits, nb::handle mode, nb::handle transpose) {
  constexpr const char* op = "QuantizedWeights";
  const GivenSettings given = parse_settings(
      op,
      {.w = w, .scales = scales, .biases = biases, .group_size = group_size, .bits = bits, .mode = mode, .transpose = transpose});
  const WeightOperands operands = view_arrays(op, w, scales, biases, global_scale, given, Reading::outlines);
  const QuantizedWeights weights = operands.weights.resolved(op);
  new (self) HeldWeights{.w = nb::borrow(w),
                         .scales = nb::borrow(scales),
                         .biases = nb::borrow(biases),
                         .global_scale = nb::borrow(global_scale),
                         .mode = weights.mode,
                         .bits = *weights.bits,
                         .group_size = *weights.group_size,
                         .transpose = weights.transpose,
                         .shape = weights.shape(),
                         .nbytes = weights.nbytes()};
}

nb::object deep_copy(nb::handle self, nb::handle memo) {
  const nb::object deepcopy = nb::module_::import_("copy").attr("deepcopy");
  const auto copied = [&](const char* name) { return deepcopy(self.attr(name), memo); };
  return self.type()(copied("w"), copied("scales"), copied("biases"), nb::arg("global_scale") = copied("global_scale"),
                     nb::arg("group_size") = self.attr("group_size"), nb::arg("bits") = self.attr("bits"),
                     nb::arg("mode") = self.attr("mode"), nb::arg("transpose") = self.attr("transpose"));
}

nb::tuple reduce(nb::handle self) {
  return nb::make_tuple(nb::module_::import_("gqmm._pickle").attr("quantized_weights"),
                        nb::make_tuple(self.attr("w"), self.attr("scales"), self.attr("biases"), self.attr("global_scale"),
                                       self.attr("group_size"), self.attr("bits"), self.attr("mode"), self.attr("transpose")));
}

std::string describe(const HeldWeights& self) {
  return fmt::format("<gqmm.QuantizedWeights {} {} {}-bit, groups of {}, {}{} bytes>", to_string(self.shape), name_of(self.mode),
                     self.bits, self.group_size, self.transpose ? "" : "transpose=False, ", self.nbytes);
}

constexpr std::array<nb::object HeldWeights::*, 4> held_objects = {&HeldWeights::w, &HeldWeights::scales, &HeldWeights::biases,
                                                                   &HeldWeights::global_scale};

/// Shows the arrays to Python's garbage collector, because an array may refer to the weights that hold it.
int traverse(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  if (nb::inst_ready(self)) {
    for (nb::object HeldWeights::* object : held_objects) {
      Py_VISIT((nb::inst_ptr<HeldWeights>(self)->*object).ptr());
    }
  }
  return 0;
}

/// Releases the arrays. The garbage collector calls it when only a cycle of references keeps the object alive.
int clear(PyObject* self) {
  if (nb::inst_ready(self)) {
    for (nb::object HeldWeights::* object : held_objects) {
      (nb::inst_ptr<HeldWeights>(self)->*object).reset();
    }
  }
  return 0;
}

PyType_Slot slots[] = {
    {Py_tp_traverse, reinterpret_cast<void*>(&traverse)}, {Py_tp_clear, reinterpret_cast<void*>(&clear)}, {0, nullptr}};

}  // namespace

WeightOperands import_quantized_weights(const char* op, const WeightArguments& arguments) {
  HeldWeights* held = nullptr;
  if (nb::try_cast(arguments.w, held) && held != nullptr) {
    check_beside(op, *held, arguments);
    return view_of(op, *held);
  }
  return view_arrays(op, arguments.w, arguments.scales, arguments.biases, arguments.global_scale, parse_settings(op, arguments));
}

std::variant<WeightOperands, PackedWeights> import_weights(const char* op, const WeightArguments& arguments) {
  PackedWeights* packed = nullptr;
  if (nb::try_cast(arguments.w, packed) && packed != nullptr) {
    return with_arguments(op, *packed, arguments);
  }
  return import_quantized_weights(op, arguments);
}

std::variant<WeightOperands, PackedWeights> import_weights_object(const char* op, nb::handle weights) {
  PackedWeights* packed = nullptr;
  if (nb::try_cast(weights, packed) && packed != nullptr) {
    return *packed;
  }
  HeldWeights* held = nullptr;
  if (nb::try_cast(weights, held) && held != nullptr) {
    return view_of(op, *held);
  }
  throw nb::type_error(fmt::format("[{}] weights: expected QuantizedWeights or PackedWeights, got {}; pass "
                                   "QuantizedWeights(w, scales, biases)",
                                   op, nb::cast<std::string>(nb::str(weights.type().attr("__name__"))))
                           .c_str());
}

LayerOperand import_layer(ArgumentName name, nb::handle layer) {
  PackedWeights* packed = nullptr;
  if (nb::try_cast(layer, packed) && packed != nullptr) {
    return *packed;
  }
  HeldWeights* held = nullptr;
  if (nb::try_cast(layer, held) && held != nullptr) {
    return view_of(name.op, *held);
  }
  return import_array(name, layer);
}

ExpertWeights view_of(const LayerOperand& layer) {
  if (const auto* operands = std::get_if<WeightOperands>(&layer)) {
    return operands->weights;
  }
  if (const auto* packed = std::get_if<PackedWeights>(&layer)) {
    return *packed;
  }
  return std::get<Operand>(layer).view;
}

void bind_quantized_weights(nb::module_& m) {
  nb::class_<HeldWeights> weights(
      m, "QuantizedWeights", nb::is_final(), nb::type_slots(slots),
      "Quantized weights as one object: the arrays that quantize() returns or a checkpoint holds, and the settings that say how "
      "to read them. It is passed as w, without scales, biases or global_scale. It is immutable. It holds references to the "
      "arrays and copies nothing, so a change of an array changes the weights.");
  weights
      .def("__init__", &make_held_weights, nb::arg("w").none(), nb::arg("scales").none(), nb::arg("biases") = nb::none(),
           nb::kw_only(), nb::arg("global_scale") = nb::none(), nb::arg("group_size") = nb::none(), nb::arg("bits") = nb::none(),
           nb::arg("mode").none() = "affine", nb::arg("transpose").none() = true,
           nb::sig("def __init__(self, w: gqmm._types.Array, scales: gqmm._types.Array, biases: gqmm._types.Array | None = None, "
                   "*, global_scale: gqmm._types.Array | None = None, group_size: int | None = None, bits: int | None = None, "
                   "mode: str | None = 'affine', transpose: bool | None = True) -> None"),
           "w: the codes, uint32, of shape (…, N, K·bits/32) when transpose, else (…, K, N·bits/32).\n"
           "scales: shape (…, N, K/group_size) when transpose, else (…, K, N/group_size). They are float16, bfloat16 or float32 "
           "in affine mode. In other modes they are bytes: uint8, float8_e8m0fnu (mxfp4, mxfp8) or float8_e4m3fn (nvfp4).\n"
           "biases: affine mode needs them, and the other modes have none. Shape and types are as for scales.\n"
           "global_scale: only for nvfp4, float32: one value for each matrix of w, or a single one.\n"
           "group_size: weights that share a scale: 32, 64 (default) or 128 for affine, 32 for mxfp4 and mxfp8, 16 for nvfp4.\n"
           "bits: bits of a code: 1, 2, 3, 4 (default), 5, 6 or 8 for affine, 4 for mxfp4 and nvfp4, 8 for mxfp8.\n"
           "mode: 'affine', 'mxfp4', 'mxfp8' or 'nvfp4'.\n"
           "transpose: whether products are x @ w.T.\n"
           "Raises TypeError for an argument of a wrong kind. Raises ValueError for shapes, types or settings that contradict "
           "each other, as gather_qmm does.")
      .def_prop_ro(
          "w", [](const HeldWeights& self) { return self.w; }, nb::sig("def w(self) -> typing.Any"), "The array of codes.")
      .def_prop_ro(
          "scales", [](const HeldWeights& self) { return self.scales; }, nb::sig("def scales(self) -> typing.Any"),
          "The array of scales.")
      .def_prop_ro(
          "biases", [](const HeldWeights& self) { return self.biases; }, nb::sig("def biases(self) -> typing.Any"),
          "The array of biases in affine mode, else None.")
      .def_prop_ro(
          "global_scale", [](const HeldWeights& self) { return self.global_scale; },
          nb::sig("def global_scale(self) -> typing.Any"), "The global scale, or None.")
      .def_prop_ro(
          "mode", [](const HeldWeights& self) { return name_of(self.mode); }, "The quantization mode.")
      .def_ro("bits", &HeldWeights::bits, "The number of bits of a code.")
      .def_ro("group_size", &HeldWeights::group_size, "The number of weights that share a scale.")
      .def_ro("transpose", &HeldWeights::transpose, "Whether products are x @ w.T.")
      .def_prop_ro(
          "shape", [](const HeldWeights& self) { return tuple_of(self.shape); }, nb::sig("def shape(self) -> tuple[int, ...]"),
          "The shape of the dequantized weights: (…, N, K) when transpose, else (…, K, N).")
      .def_ro("nbytes", &HeldWeights::nbytes, "The number of bytes of all arrays.")
      .def("__repr__", &describe)
      .def("__reduce__", &reduce, nb::sig("def __reduce__(self) -> tuple[typing.Any, ...]"))
      .def(
          "__copy__", [](nb::handle self) { return nb::borrow(self); }, nb::sig("def __copy__(self) -> typing.Self"))
      .def("__deepcopy__", &deep_copy, nb::arg(), nb::sig("def __deepcopy__(self, memo: object, /) -> typing.Self"));
  seal(weights);
}

}  // namespace gqmm::python
