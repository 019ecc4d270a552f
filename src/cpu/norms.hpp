// The norms of rows on the CPU.
#pragma once

#include "arrays/matrix_batch.hpp"

#include <cstddef>
#include <vector>

namespace gqmm::cpu {

/// Arguments of rms_norm and layer_norm. No extent may be 0.
struct NormProblem {
  MatrixBatch x;              // a matrix of one row for each row, without gaps in it
  std::vector<float> weight;  // one for each element of a row, or empty
  std::vector<float> bias;    // likewise; rms_norm has none
  float eps = 0;
  std::byte* y = nullptr;  // row-major
  Dtype y_dtype = Dtype::float32;
  int threads = 0;  // of the call's stream
};

/// Both throw as run of a Problem does (cpu/backend.hpp).
void rms_norm(const NormProblem& problem);
void layer_norm(const NormProblem& problem);

}  // namespace gqmm::cpu
