// These functions convert arrays of the Python libraries to gqmm::array and back. All of them need the GIL.
#pragma once

#include <gqmm/array.hpp>
#include <gqmm/types.hpp>

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>  // IWYU pragma: keep: a cast of std::string compiles without it, and fails when it runs

#include <cstdint>
#include <optional>
#include <string>

namespace gqmm::python {

namespace nb = nanobind;

/// Names an argument of a call. Error messages begin with "[op] name".
struct ArgumentName {
  const char* op;
  const char* name;
};

/// A view of a Python array's memory, without a copy. `keep` owns what keeps the memory in place: a capsule, a memoryview, or
/// the array itself. An Operand must be destroyed with the GIL held.
struct Operand {
  array view;
  nb::object keep;
  /// The name that ml_dtypes gives to an 8-bit float type. `view` then has the bytes as uint8. Other types leave it empty.
  std::string float8 = {};
};

/// The library that a result's array should belong to. An object of none of these libraries counts as NumPy's.
enum class Library : std::uint8_t { numpy, torch, jax, mlx };

/// Finds the library of an object, and never imports one: an object can be torch's only if torch has been imported.
Library library_of(nb::handle object);

/// Views an array in place. Raises TypeError for an object that is not an array. Throws std::invalid_argument if the element
/// type, byte order, device or layout is not supported.
Operand import_array(ArgumentName name, nb::handle object);
/// The same, but returns an empty optional for None.
std::optional<Operand> import_optional_array(ArgumentName name, nb::handle object);
/// The same for an array whose memory a result is written to. Arrays of NumPy and PyTorch can be written; raises TypeError for
/// others, and throws std::invalid_argument for a read-only one.
Operand import_writable_array(ArgumentName name, nb::handle object);

/// Views an array to learn its shape and type alone. One of MLX may be part of a graph; it is not evaluated, and the view has no
/// memory then. Other arrays, and errors, are as for import_array.
Operand import_outline(ArgumentName name, nb::handle object);

inline std::optional<array> view_of(const std::optional<Operand>& operand) {
  return operand ? std::optional<array>(operand->view) : std::nullopt;
}

/// The scales of quantized weights: the bytes of float8_e4m3fn and float8_e8m0fnu, where the mode has such scales. Raises as
/// import_array does; a type that does not fit the mode is a std::invalid_argument.
Operand import_scales(const char* op, nb::handle object, Mode mode);
/// The same as import_outline.
Operand import_outline_of_scales(const char* op, nb::handle object, Mode mode);

/// Makes an array of the library of `like` that shares the memory of `result`. None stands for NumPy. MLX copies the memory on a
/// CPU. JAX copies it if `like` is on another device than the first CPU.
nb::object export_array(nb::handle like, array result);

/// Binds the class that lends a result's memory to the libraries, through the buffer protocol and DLPack.
void bind_result(nb::module_& module);

/// Converts a shape to a tuple of Python.
nb::tuple tuple_of(const Shape& shape);

/// Finds an element type by its size and by the letter that a typestring has for its kind. The letters are 'b' for bool, 'i', 'u'
/// and 'f' for integers and floats, and 'V' for bfloat16.
std::optional<Dtype> find_dtype(char kind, std::int64_t itemsize);

/// Returns the module if it has been imported already, otherwise an invalid object.
nb::object imported_module(const char* name);

/// Imports a module once and keeps it in `slot` for the life of the process. The slot must not be a function-local static with an
/// initialiser. An import lets other threads run. A thread that waited for the initialiser would hold the GIL, and the importing
/// thread would wait for the GIL.
nb::handle kept_module(nb::handle& slot, const char* name);

/// Returns the scalar type ml_dtypes.bfloat16 if ml_dtypes has been imported, otherwise an invalid handle.
nb::handle bfloat16_type();

}  // namespace gqmm::python
