// Helpers of the functions that import arrays: errors, element types, and checks of a shape.
#pragma once

#include "arrays.hpp"

#include <string>

namespace gqmm::python {

/// Throws std::invalid_argument with the text "[op] name: what".
[[noreturn]] void fail(ArgumentName name, const std::string& what);
/// Raises TypeError with the text "[op] name: what".
[[noreturn]] void fail_type(ArgumentName name, const std::string& what);
/// Raises ValueError for an exception that a library raised while it exported its array. That exception becomes the cause.
[[noreturn]] void fail_because(ArgumentName name, nb::python_error& error);

std::string text_of(nb::handle object);

/// The type as which the elements of an operand are read.
struct ImportedType {
  Dtype dtype;
  std::string float8 = {};  // see Operand
};

/// Returns the type `dtype`. If there is none and `shown` is the name of an 8-bit float type, returns that type as bytes.
/// Otherwise throws std::invalid_argument, whose text calls the type `shown`.
ImportedType element_type(ArgumentName name, std::optional<Dtype> dtype, const std::string& shown);

/// Views memory as a library describes it. Throws std::invalid_argument for an impossible shape, or for elements without memory.
Operand lent_memory(ArgumentName name, void* data, Shape shape, const ImportedType& type, Strides strides, nb::object keep);

/// These view an object's memory through DLPack. The two others know what PyTorch and JAX do differently.
Operand import_dlpack(ArgumentName name, nb::handle object);
Operand import_torch(ArgumentName name, nb::handle object);
Operand import_jax(ArgumentName name, nb::handle object);

}  // namespace gqmm::python
