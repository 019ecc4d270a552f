// Elements of a batch of matrices as float32, whatever their type and strides.
#pragma once

#include "arrays/matrix_batch.hpp"
#include "cpu/kernels/kernel_table.hpp"

#include <cstdint>

namespace gqmm::cpu {

/// Converts the elements [first, first + count) of the row-major order of all matrices to float32.
void load_floats(const KernelTable& kernels, const MatrixBatch& matrices, std::int64_t first, std::int64_t count, float* out);

}  // namespace gqmm::cpu
