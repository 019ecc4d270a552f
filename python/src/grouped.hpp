// grouped_qmm, grouped_mm and their gradients as functions of gqmm._gqmm.
#pragma once

#include <nanobind/nanobind.h>

namespace gqmm::python {

void bind_grouped(nanobind::module_& m);

}  // namespace gqmm::python
