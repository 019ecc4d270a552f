#include "cpu/rounded_rows.hpp"

#include "cpu/call_context.hpp"
#include "cpu/scratch.hpp"

#include <algorithm>

namespace gqmm::cpu {
namespace {

/// Elements of an item, at least; items have whole rows.
constexpr std::int64_t item_elements = 4096;

struct RowScratch {
  Scratch y;
};

}  // namespace

void compute_rows(const RoundedRows& result, const RowFunction& compute) {
  const std::int64_t n = result.n;
  const std::int64_t rows_of_item = std::max<std::int64_t>(1, item_elements / n);
  const std::int64_t items = (result.rows + rows_of_item - 1) / rows_of_item;
  CallContext call(static_cast<double>(result.rows) * static_cast<double>(n) * result.multiply_adds_of_an_element,
                   result.threads);
  const std::int64_t vectors = (n + lanes - 1) / lanes;
  const auto y_row = n * static_cast<std::int64_t>(size_of(result.y_dtype));
  call.use_at_most(items);
  call.add_phase(
      items, [](std::int64_t) { return 1; },
      [&](std::int64_t item, std::int64_t) {
        const ThreadCached<RowScratch> scratch;
        auto* const y = scratch->y.take<float>(vectors, lanes);
        const std::int64_t end = std::min(result.rows, (item + 1) * rows_of_item);
        for (std::int64_t row = item * rows_of_item; row < end; ++row) {
          compute(call.kernels(), row, y);
          call.kernels().round(y, n, result.y_dtype, result.y + row * y_row);
        }
      });
  call.run();
}

}  // namespace gqmm::cpu
