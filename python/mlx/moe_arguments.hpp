// moe_ffn as Python calls it.
#pragma once

#include "weight_arguments.hpp"

#include <nanobind/nanobind.h>

namespace nb = nanobind;

namespace gqmm::mlx {

/// Binds the function that gqmm.mlx.moe_ffn calls.
void bind_moe_ffn(nb::module_& m);

}  // namespace gqmm::mlx
