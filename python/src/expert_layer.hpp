// Layers of experts that are divided over ranks, as a class of gqmm._gqmm.
#pragma once

#include <nanobind/nanobind.h>

namespace gqmm::python {

void bind_expert_layer(nanobind::module_& m);

}  // namespace gqmm::python
