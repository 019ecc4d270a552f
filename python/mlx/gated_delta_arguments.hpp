// The gated delta rule as Python calls it.
#pragma once

#include <nanobind/nanobind.h>

namespace nb = nanobind;

namespace gqmm::mlx {

/// Binds the rule, and the functions that those of MLX and mlx-lm call.
void bind_gated_delta(nb::module_& m);

}  // namespace gqmm::mlx
