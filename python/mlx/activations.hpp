// Activations over arrays of MLX.
#pragma once

#include <gqmm/activation.hpp>

#include <mlx/array.h>
#include <mlx/utils.h>

#include <optional>

namespace mx = ::mlx::core;

namespace gqmm::mlx {

/// Makes an activation of MLX's own functions, which have all transforms. They round after each operation.
mx::array activation_in_functions(const mx::array& gate, const std::optional<mx::array>& up, const Activation& activation,
                                  mx::Stream stream);

/// Whether gqmm computes activations of these operands: on the CPU, of one shape and of one type that it knows.
bool serves_activation(const mx::array& gate, const std::optional<mx::array>& up, mx::StreamOrDevice stream);

/// Makes an activation as gqmm::activate computes it, or of MLX's own functions on another device than the CPU. Throws
/// std::invalid_argument as gqmm::activate does.
mx::array activate(const mx::array& gate, const std::optional<mx::array>& up, const Activation& activation,
                   mx::StreamOrDevice stream);

}  // namespace gqmm::mlx
