// Arrays of the Python libraries from and to gqmm::array. Everything here runs with the GIL held.
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

/// Where in a call an argument stands; error messages begin with "[op] name".
struct ArgumentName {
  const char* op;
  const char* name;
};

/// A Python array's memory, without a copy. `keep` holds what guarantees that the memory stays where it is (a capsule, a
/// memoryview, or the array itself) and must be destroyed with the GIL held.
struct Operand {
  array view;
  nb::object keep;
  /// ml_dtypes' name of a floating-point type of 8 bits, of which `view` has the bytes as uint8; else empty.
  std::string float8 = {};
};

/// The library whose arrays a result should be. Objects of none of them count as NumPy's.
enum class Library : std::uint8_t { numpy, torch, jax, mlx };

/// Never imports a library: an object can only be torch's if torch has been imported.
Library library_of(nb::handle object);

/// Raises TypeError for an object that is no array; std::invalid_argument for an array whose element type, byte order, device or
/// layout is not supported.
Operand import_array(ArgumentName name, nb::handle object);
/// The same; None gives nothing.
std::optional<Operand> import_optional_array(ArgumentName name, nb::handle object);

/// The scales of quantized weights: the bytes of float8_e4m3fn and float8_e8m0fnu, where the mode (affine unless given) has such
/// scales. Raises as import_array does; a type that does not fit the mode is a std::invalid_argument.
Operand import_scales(const char* op, nb::handle object, std::optional<Mode> mode);
/// The same; None gives nothing.
std::optional<Operand> import_optional_scales(const char* op, nb::handle object, std::optional<Mode> mode);

/// An array of the library of `like` that shares the memory of `result`; MLX on a CPU copies it, and JAX if `like` is on another
/// device than the first CPU. None stands for NumPy.
nb::object export_array(nb::handle like, array result);

/// The class that lends a result's memory to the libraries, through the buffer protocol and DLPack.
void bind_result(nb::module_& module);

/// Element types by the kind that typestrings give ('b' bool, 'i', 'u', 'f', 'V' for bfloat16) and size.
std::optional<Dtype> find_dtype(char kind, std::int64_t itemsize);

/// The module if it has been imported already; else an invalid object.
nb::object imported_module(const char* name);

/// Imports a module once and keeps it in `slot` for the life of the process. The slot is no function-local static with an
/// initialiser: importing lets other threads run, and one that waited for the initialiser would keep the GIL from the first.
nb::handle kept_module(nb::handle& slot, const char* name);

/// ml_dtypes.bfloat16's scalar type if ml_dtypes has been imported; else an invalid handle.
nb::handle bfloat16_type();

}  // namespace gqmm::python
