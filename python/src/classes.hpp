#pragma once

#include <nanobind/nanobind.h>

namespace gqmm::python {

/// Binds Device, Stream, QuantizedWeights, PackedWeights, InstructionSet, and the functions that describe the machine.
void bind_classes(nanobind::module_& module);

}  // namespace gqmm::python
