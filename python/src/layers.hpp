// Attention, norms and rotary embeddings as functions of gqmm._gqmm.
#pragma once

#include <nanobind/nanobind.h>

namespace gqmm::python {

void bind_layers(nanobind::module_& m);

}  // namespace gqmm::python
