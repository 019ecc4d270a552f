// The recurrence of state space models as Python calls it.
#pragma once

#include <nanobind/nanobind.h>

namespace nb = nanobind;

namespace gqmm::mlx {

/// Binds the recurrence, and the function that mlx-lm's calls.
void bind_ssm(nb::module_& m);

}  // namespace gqmm::mlx
