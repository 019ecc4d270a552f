#include "cpu/softmax.hpp"

#include "cpu/dispatch.hpp"
#include "cpu/load_floats.hpp"
#include "cpu/rounded_rows.hpp"

#include <cstdint>

namespace gqmm::cpu {
namespace {

/// An element takes about as long as this number of multiply-adds.
constexpr double multiply_adds_of_an_element = 32;

}  // namespace

void softmax(const SoftmaxProblem& problem) {
  const MatrixBatch& x = problem.x;
  const std::int64_t n = x.cols();
  const auto kernel = active_layers().softmax_of_row;
  compute_rows({.rows = x.count() * x.rows(),
                .n = n,
                .multiply_adds_of_an_element = multiply_adds_of_an_element,
                .y = problem.y,
                .y_dtype = x.dtype(),
                .threads = problem.threads},
               [&](const KernelTable& kernels, std::int64_t row, float* y) {
                 load_floats(kernels, x, row * n, n, y);
                 kernel({.y = y, .n = n});
               });
}

}  // namespace gqmm::cpu
