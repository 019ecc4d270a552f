// The derivatives of activations on the CPU.
#pragma once

#include <gqmm/activation.hpp>

#include <vector>

namespace gqmm::cpu {

/// The gradients of gate and up.
struct ActivationGradients {
  std::vector<float> gate;
  std::vector<float> up;  // empty if the activation is not gated
};

/// The gradients from `dh`, the gradient of h = activation(gate, up), element by element. `up` is empty if the activation is not
/// gated. Where an operand was clipped, its gradient is zero. Bits are the same on every machine: the functions are those of
/// `activate`, and all else is single float32 operations. `threads` is that of the call's stream. Throws as run of a Problem does
/// (cpu/backend.hpp).
ActivationGradients activation_gradients(const Activation& activation, const std::vector<float>& gate,
                                         const std::vector<float>& up, const std::vector<float>& dh, int threads);

}  // namespace gqmm::cpu
