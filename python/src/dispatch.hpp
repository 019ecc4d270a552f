// Expert parallelism as functions and classes of gqmm._gqmm.
#pragma once

#include <nanobind/nanobind.h>

namespace gqmm::python {

void bind_dispatch(nanobind::module_& m);

}  // namespace gqmm::python
