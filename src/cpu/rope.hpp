// Rotary position embeddings on the CPU.
#pragma once

#include "arrays/matrix_batch.hpp"

#include <cstddef>
#include <cstdint>
#include <vector>

namespace gqmm::cpu {

/// Arguments of rope. No extent may be 0.
struct RopeProblem {
  MatrixBatch x;           // (T, D) matrices
  std::int64_t batch = 1;  // the matrices belong to this number of batch elements, in order
  bool traditional = false;
  std::vector<double> frequencies;    // of each pair, times the scale of positions
  std::vector<std::int64_t> offsets;  // for each batch element
  std::byte* y = nullptr;             // row-major, of the type of x
  int threads = 0;                    // of the call's stream
};

/// Throws as run of a Problem does (cpu/backend.hpp).
void rope(const RopeProblem& problem);

}  // namespace gqmm::cpu
