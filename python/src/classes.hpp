#pragma once

#include <nanobind/nanobind.h>

namespace gqmm::python {

/// Device, Stream, PackedWeights, InstructionSet and the functions that describe the machine.
void bind_classes(nanobind::module_& module);

}  // namespace gqmm::python
