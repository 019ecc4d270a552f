// Expert parallelism as functions and classes of gqmm._gqmm.
#pragma once

#include <gqmm/dispatch.hpp>

#include <nanobind/nanobind.h>

namespace gqmm::python {

/// Converts an ExpertOwners, or what it is made of: an array, or a sequence of ranks and of sequences of ranks.
ExpertOwners parse_owners(nanobind::handle owners);

void bind_dispatch(nanobind::module_& m);

}  // namespace gqmm::python
