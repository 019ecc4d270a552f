#include "cpu/norms.hpp"

#include "cpu/dispatch.hpp"
#include "cpu/load_floats.hpp"
#include "cpu/rounded_rows.hpp"

#include <cstdint>

namespace gqmm::cpu {
namespace {

/// An element takes about as long as this number of multiply-adds.
constexpr double multiply_adds_of_an_element = 16;

RoundedRows rows_of(const NormProblem& problem) {
  return {.rows = problem.x.count(),
          .n = problem.x.cols(),
          .multiply_adds_of_an_element = multiply_adds_of_an_element,
          .y = problem.y,
          .y_dtype = problem.y_dtype,
          .threads = problem.threads};
}

const float* values_or_null(const std::vector<float>& values) { return values.empty() ? nullptr : values.data(); }

}  // namespace

void rms_norm(const NormProblem& problem) {
  const MatrixBatch& x = problem.x;
  const auto kernel = active_layers().rms_norm;
  compute_rows(rows_of(problem), [&](const KernelTable&, std::int64_t row, float* y) {
    kernel({.x = x.matrix(row),
            .dtype = x.dtype(),
            .n = x.cols(),
            .weight = values_or_null(problem.weight),
            .eps = problem.eps,
            .y = y});
  });
}

void layer_norm(const NormProblem& problem) {
  const MatrixBatch& x = problem.x;
  const std::int64_t n = x.cols();
  const auto kernel = active_layers().layer_norm;
  compute_rows(rows_of(problem), [&](const KernelTable& kernels, std::int64_t row, float* y) {
    load_floats(kernels, x, row * n, n, y);
    kernel({.y = y, .n = n, .weight = values_or_null(problem.weight), .bias = values_or_null(problem.bias), .eps = problem.eps});
  });
}

}  // namespace gqmm::cpu
