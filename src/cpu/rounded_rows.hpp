// Operators whose result consists of rows that are computed in float32, each by itself, and rounded once.
#pragma once

#include "cpu/kernels/kernel_table.hpp"

#include <gqmm/types.hpp>

#include <cstddef>
#include <cstdint>
#include <functional>

namespace gqmm::cpu {

/// The rows of a result, and what they cost. Neither extent may be 0.
struct RoundedRows {
  std::int64_t rows = 0;
  std::int64_t n = 0;                      // elements of a row
  double multiply_adds_of_an_element = 0;  // an element takes about as long as this number of multiply-adds
  std::byte* y = nullptr;                  // row-major
  Dtype y_dtype = Dtype::float32;
  int threads = 0;  // of the call's stream
};

/// Computes a row in float32. It may write to y[n] and behind, up to whole vectors of 16.
using RowFunction = std::function<void(const KernelTable& kernels, std::int64_t row, float* y)>;

/// Calls compute(kernels, row, y) for each row, on the threads of a call, and rounds the rows into the result. Throws as run of a
/// Problem does (cpu/backend.hpp).
void compute_rows(const RoundedRows& result, const RowFunction& compute);

}  // namespace gqmm::cpu
