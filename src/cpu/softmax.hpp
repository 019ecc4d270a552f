// Softmax of rows on the CPU.
#pragma once

#include "arrays/matrix_batch.hpp"

#include <cstddef>

namespace gqmm::cpu {

/// Arguments of softmax. No extent may be 0.
struct SoftmaxProblem {
  MatrixBatch x;           // matrices whose rows are the rows of the result
  std::byte* y = nullptr;  // row-major, of the type of x
  int threads = 0;         // of the call's stream
};

/// Throws as run of a Problem does (cpu/backend.hpp).
void softmax(const SoftmaxProblem& problem);

}  // namespace gqmm::cpu
