// Properties that all classes of the extensions have.
#pragma once

#include <nanobind/nanobind.h>

namespace gqmm::python {

/// Seals a bound class, so that no object of it exists without a C++ value. The class's __new__, which copyreg and pickle also
/// call, raises TypeError. Calling the class and casting from C++ do not use __new__. The class also becomes immutable. Otherwise
/// an object could get another class by an assignment to its __class__. Call this after the last definition.
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

/// Defines copy and deepcopy, which return the object itself, because it is immutable.
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
