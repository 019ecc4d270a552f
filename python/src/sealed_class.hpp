// What the classes of the extensions have in common.
#pragma once

#include <nanobind/nanobind.h>

namespace gqmm::python {

/// Lets no object of a bound class be made without its C++ value: the class's __new__, which copyreg and pickle also call, raises
/// TypeError. Calling the class and casting from C++ do not pass through it. The class becomes immutable too, for otherwise an
/// object could be given another class by assigning to its __class__. Call this after the last definition.
inline void seal(nanobind::handle bound_class) {
  auto* type = reinterpret_cast<PyTypeObject*>(bound_class.ptr());
  type->tp_new = [](PyTypeObject* self, PyObject*, PyObject*) -> PyObject* {
    PyErr_Format(PyExc_TypeError, "%s.__new__ would make an object without a value; call the class, or what returns such objects",
                 self->tp_name);
    return nullptr;
  };
  type->tp_flags |= Py_TPFLAGS_IMMUTABLETYPE;
  PyType_Modified(type);
}

/// Copies of an immutable object are the object itself.
template <class BoundClass>
void define_copies(BoundClass& bound_class) {
  bound_class.def(
      "__copy__", [](nanobind::handle self) { return nanobind::borrow(self); },
      nanobind::sig("def __copy__(self) -> typing.Self"));
  bound_class.def(
      "__deepcopy__", [](nanobind::handle self, nanobind::handle) { return nanobind::borrow(self); }, nanobind::arg(),
      nanobind::sig("def __deepcopy__(self, memo: object, /) -> typing.Self"));
}

}  // namespace gqmm::python
