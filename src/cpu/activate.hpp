// Activations on the CPU: of float32 rows inside other operators, and as an operator of their own.
#pragma once

#include "arrays/matrix_batch.hpp"
#include "cpu/kernels/kernel_table.hpp"

#include <gqmm/activation.hpp>

#include <cstddef>
#include <cstdint>

namespace gqmm::cpu {

/// An activation over float32 rows. It has what check_activation accepts.
class ActivationOfRows {
 public:
  ActivationOfRows(const KernelTable& kernels, const Activation& activation);

  /// Writes n elements of h, which may be `gate` or `up`. `up` is nullptr if the activation is not gated.
  void operator()(const float* gate, const float* up, float* h, std::int64_t n) const {
    run_({.gate = gate, .up = up, .h = h, .n = n, .constants = constants_});
  }

 private:
  void (*run_)(const ActivationArguments&);
  ActivationConstants constants_;
};

/// Arguments of activate: matrices of one shape and type. `up` is empty if the activation is not gated.
struct ActivateProblem {
  MatrixBatch gate;
  MatrixBatch up;
  Activation activation;
  std::byte* h = nullptr;  // row-major, of the type of gate
  int threads = 0;         // of the call's stream
};

/// Throws as run of a Problem does (cpu/backend.hpp).
void activate(const ActivateProblem& problem);

}  // namespace gqmm::cpu
