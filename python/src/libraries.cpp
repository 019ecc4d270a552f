// Finds the library that an object belongs to, without importing any.
#include "arrays.hpp"

#include <array>

namespace gqmm::python {
namespace {

bool is_subclass(nb::handle type, nb::handle of) {
  const int found = PyObject_IsSubclass(type.ptr(), of.ptr());
  if (found < 0) {
    throw nb::python_error();
  }
  return found != 0;
}

bool is_type_of(nb::handle type, const char* module_name, const char* class_name) {
  const nb::object module = imported_module(module_name);
  if (!module.is_valid()) {
    return false;
  }
  // A module that is still being imported may lack the class.
  const nb::object base = nb::getattr(module, class_name, nb::none());
  return base.is_type() && is_subclass(type, base);
}

Library classify(nb::handle type) {
  if (is_type_of(type, "torch", "Tensor")) {
    return Library::torch;
  }
  if (is_type_of(type, "mlx.core", "array")) {
    return Library::mlx;
  }
  if (is_type_of(type, "jax", "Array")) {
    return Library::jax;
  }
  return Library::numpy;
}

}  // namespace

nb::object imported_module(const char* name) {
  const nb::str key(name);
  nb::object module = nb::steal(PyImport_GetModule(key.ptr()));
  if (!module.is_valid() && PyErr_Occurred() != nullptr) {
    throw nb::python_error();
  }
  return module;
}

nb::handle kept_module(nb::handle& slot, const char* name) {
  if (!slot.is_valid()) {
    slot = nb::object(nb::module_::import_(name)).release();
  }
  return slot;
}

nb::handle bfloat16_type() {
  static nb::handle type;
  if (!type.is_valid()) {
    if (const nb::object module = imported_module("ml_dtypes"); module.is_valid()) {
      // The reference is never released: the type lives as long as the process, as the module itself does.
      type = nb::getattr(module, "bfloat16", nb::handle()).release();
    }
  }
  return type;
}

Library library_of(nb::handle object) {
  // The cache saves subclass tests, which cost a microsecond each. Few entries are enough, because a program has few array types.
  // The cache owns its types, so that no other type can get the address of one.
  struct Entry {
    nb::handle type;
    Library library;
  };
  static std::array<Entry, 8> cache;
  static std::size_t used = 0;

  const nb::handle type = object.type();
  for (std::size_t i = 0; i < used; ++i) {
    if (cache[i].type.is(type)) {
      return cache[i].library;
    }
  }
  const Library library = classify(type);
  // NumPy is also the answer for a type whose library is still being imported. That answer may change, so it is not cached. Only
  // NumPy's own types are.
  const bool certain = library != Library::numpy || is_type_of(type, "numpy", "ndarray");
  if (certain && used < cache.size()) {
    cache[used++] = {nb::handle(type).inc_ref(), library};
  }
  return library;
}

}  // namespace gqmm::python
