// Attention as a function of gqmm._gqmm.
#pragma once

#include <nanobind/nanobind.h>

namespace gqmm::python {

void bind_attention(nanobind::module_& m);

}  // namespace gqmm::python
