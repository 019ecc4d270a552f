// The gradients of the operators as functions of gqmm._gqmm.
#pragma once

#include <nanobind/nanobind.h>

namespace gqmm::python {

void bind_gradients(nanobind::module_& module);

}  // namespace gqmm::python
