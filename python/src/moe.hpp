// Activations and the operators of whole expert layers as functions of gqmm._gqmm.
#pragma once

#include <nanobind/nanobind.h>

namespace gqmm::python {

void bind_moe(nanobind::module_& m);

}  // namespace gqmm::python
