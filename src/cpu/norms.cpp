#include "cpu/rms_norm.hpp"

#include "cpu/call_context.hpp"
#include "cpu/dispatch.hpp"
#include "cpu/scratch.hpp"

#include <algorithm>
#include <cstdint>

namespace gqmm::cpu {
namespace {

/// Elements of an item, at least; items have whole rows.
constexpr std::int64_t item_elements = 4096;
/// An element takes about as long as this number of multiply-adds.
constexpr double multiply_adds_of_an_element = 16;

struct NormScratch {
  Scratch y;
};

}  // namespace

void rms_norm(const RmsNormProblem& problem) {
  const MatrixBatch& x = problem.x;
  const std::int64_t rows = x.count();
  const std::int64_t n = x.cols();
  const std::int64_t rows_of_item = std::max<std::int64_t>(1, item_elements / n);
  const std::int64_t items = (rows + rows_of_item - 1) / rows_of_item;
  CallContext call(static_cast<double>(rows) * static_cast<double>(n) * multiply_adds_of_an_element, problem.threads);
  const auto kernel = active_layers().rms_norm;
  const auto y_row = n * static_cast<std::int64_t>(size_of(problem.y_dtype));
  call.use_at_most(items);
  call.add_phase(
      items, [](std::int64_t) { return 1; },
      [&](std::int64_t item, std::int64_t) {
        const ThreadCached<NormScratch> scratch;
        float* const y = scratch->y.take<float>(n);
        const std::int64_t end = std::min(rows, (item + 1) * rows_of_item);
        for (std::int64_t row = item * rows_of_item; row < end; ++row) {
          kernel({.x = x.matrix(row),
                  .dtype = x.dtype(),
                  .n = n,
                  .weight = problem.weight.empty() ? nullptr : problem.weight.data(),
                  .eps = problem.eps,
                  .y = y});
          call.kernels().round(y, n, problem.y_dtype, problem.y + row * y_row);
        }
      });
  call.run();
}

}  // namespace gqmm::cpu
