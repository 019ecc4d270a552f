#include "arguments.hpp"

#include <fmt/format.h>

#include <limits>
#include <stdexcept>
#include <string>
#include <string_view>

namespace gqmm::python {
namespace {

std::string repr_of(nb::handle value) { return nb::cast<std::string>(nb::repr(value)); }

[[noreturn]] void fail_kind(ArgumentName name, const char* expected, nb::handle value) {
  throw nb::type_error(fmt::format("[{}] {}: expected {}, got {}", name.op, name.name, expected, repr_of(value)).c_str());
}

int to_int(ArgumentName name, const char* wanted, nb::handle value) {
  const nb::object index = nb::steal(PyBool_Check(value.ptr()) ? nullptr : PyNumber_Index(value.ptr()));
  if (!index.is_valid()) {
    PyErr_Clear();
    fail_kind(name, wanted, value);
  }
  int overflow = 0;
  const long number = PyLong_AsLongAndOverflow(index.ptr(), &overflow);
  if (overflow != 0 || number > std::numeric_limits<int>::max() || number < std::numeric_limits<int>::min()) {
    throw std::invalid_argument(
        fmt::format("[{}] {} = {} is out of range; no setting has more than 32 bits", name.op, name.name, repr_of(index)));
  }
  return static_cast<int>(number);
}

}  // namespace

bool parse_bool(ArgumentName name, nb::handle value) {
  if (value.ptr() == Py_True || value.ptr() == Py_False) {
    return value.ptr() == Py_True;
  }
  if (nb::cast<std::string>(value.type().attr("__module__")) == "numpy" && value.type().attr("__name__").equal(nb::str("bool"))) {
    return nb::cast<bool>(nb::bool_(value));
  }
  fail_kind(name, "True or False", value);
}

std::optional<bool> parse_optional_bool(ArgumentName name, nb::handle value) {
  if (value.is_none()) {
    return std::nullopt;
  }
  return parse_bool(name, value);
}

int parse_int(ArgumentName name, nb::handle value) { return to_int(name, "an integer", value); }

float parse_float(ArgumentName name, nb::handle value) {
  const double number = PyBool_Check(value.ptr()) ? -1.0 : PyFloat_AsDouble(value.ptr());
  if (PyBool_Check(value.ptr()) || PyErr_Occurred() != nullptr) {
    PyErr_Clear();
    fail_kind(name, "a number", value);
  }
  return static_cast<float>(number);
}

std::string parse_string(ArgumentName name, nb::handle value) {
  if (!nb::isinstance<nb::str>(value)) {
    fail_kind(name, "a string", value);
  }
  return nb::cast<std::string>(value);
}

std::optional<int> parse_optional_int(ArgumentName name, nb::handle value) {
  return value.is_none() ? std::nullopt : std::optional(to_int(name, "an integer or None", value));
}

std::optional<Mode> parse_optional_mode(const char* op, nb::handle value) {
  if (value.is_none()) {
    return std::nullopt;
  }
  return mode_from_name(parse_string({op, "mode"}, value), op);
}

Precision parse_precision(const char* op, nb::handle value) {
  return precision_from_name(parse_string({op, "precision"}, value), op);
}

Missing parse_missing(ArgumentName name, nb::handle value) {
  return missing_from_name(parse_string(name, value), name.op, name.name);
}

std::optional<Dtype> parse_optional_dtype(ArgumentName name, nb::handle value) {
  if (value.is_none()) {
    return std::nullopt;
  }
  // A numpy.dtype has a name. A scalar type such as numpy.float32 or jax.numpy.float32 has a __name__. Torch and MLX print
  // "torch.float32" and "mlx.core.float32".
  nb::object text;
  if (nb::isinstance<nb::str>(value)) {
    text = nb::borrow(value);
  } else if (nb::hasattr(value, "__name__")) {
    text = value.attr("__name__");
  } else if (nb::hasattr(value, "name")) {
    text = value.attr("name");
  } else {
    text = nb::str(value);
  }
  if (!nb::isinstance<nb::str>(text)) {
    fail_kind(name, "an element type", value);
  }
  const std::string full = nb::cast<std::string>(text);
  const std::string_view short_name = std::string_view(full).substr(full.rfind('.') + 1);
  for (const Dtype dtype :
       {Dtype::float32, Dtype::float16, Dtype::bfloat16, Dtype::float64, Dtype::int8, Dtype::int16, Dtype::int32, Dtype::int64,
        Dtype::uint8, Dtype::uint16, Dtype::uint32, Dtype::uint64, Dtype::bool_}) {
    if (name_of(dtype) == short_name) {
      return dtype;
    }
  }
  if (nb::isinstance<nb::str>(value)) {
    throw std::invalid_argument(
        fmt::format("[{}] {} = '{}' is not an element type; use float16, bfloat16 or float32", name.op, name.name, full));
  }
  fail_kind(name, "an element type such as float32, float16 or bfloat16", value);
}

IndexOperands import_indices(const char* op, nb::handle lhs_indices, nb::handle rhs_indices, nb::handle sorted_indices) {
  return {.lhs = import_optional_array({op, "lhs_indices"}, lhs_indices),
          .rhs = import_optional_array({op, "rhs_indices"}, rhs_indices),
          .sorted = parse_bool({op, "sorted_indices"}, sorted_indices)};
}

Stream parse_stream(const char* op, nb::handle value) {
  Stream stream;
  if (!value.is_none() && !nb::try_cast(value, stream)) {
    throw std::invalid_argument(
        fmt::format("[{}] unsupported stream {}; pass None or gqmm.Stream(threads=…, node=…)", op, repr_of(value)));
  }
  return stream;
}

}  // namespace gqmm::python
