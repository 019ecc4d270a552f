// What the ways to an array's memory share: errors, element types, and checks of a shape.
#pragma once

#include "arrays.hpp"

#include <string>

namespace gqmm::python {

[[noreturn]] void fail(ArgumentName name, const std::string& what);
[[noreturn]] void fail_type(ArgumentName name, const std::string& what);
/// Turns an exception that a library raised while exporting its array into ValueError, keeping it as the cause.
[[noreturn]] void fail_because(ArgumentName name, nb::python_error& error);

std::string text_of(nb::handle object);

/// How the elements of an operand are read.
struct ElementType {
  Dtype dtype;
  std::string float8 = {};  // see Operand
};

/// The type that `dtype` is; without one, that of the 8-bit floats called `shown`, if it is the name of such a type. Otherwise
/// `shown` is what the error calls it.
ElementType element_type(ArgumentName name, std::optional<Dtype> dtype, const std::string& shown);

/// Memory that a library has described, once its shape has been found possible.
Operand lent_memory(ArgumentName name, void* data, Shape shape, const ElementType& type, Strides strides, nb::object keep);

/// An object's memory through its __dlpack__.
Operand import_dlpack(ArgumentName name, nb::handle object);
Operand import_torch(ArgumentName name, nb::handle object);
Operand import_jax(ArgumentName name, nb::handle object);

}  // namespace gqmm::python
