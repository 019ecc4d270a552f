// Activations as Python passes them.
#pragma once

#include <gqmm/activation.hpp>

#include <nanobind/nanobind.h>

namespace nb = nanobind;

namespace gqmm::mlx {

/// The activation that a tuple of the package stands for. The package has checked its constants.
Activation activation_in(nb::handle passed, const char* op);

/// Binds the functions that gqmm.mlx.activate and the functions of MLX and mlx-lm call.
void bind_activations(nb::module_& m);

}  // namespace gqmm::mlx
