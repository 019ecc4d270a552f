// Convolutions as Python calls them.
#pragma once

#include <nanobind/nanobind.h>

namespace nb = nanobind;

namespace gqmm::mlx {

/// Binds conv1d and conv_general.
void bind_convolutions(nb::module_& m);

}  // namespace gqmm::mlx
