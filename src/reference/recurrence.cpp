#include "reference/recurrence.hpp"

#include "formats/float_types.hpp"

#include <cmath>
#include <limits>

namespace gqmm::detail {

double element(const MatrixBatch& matrices, std::int64_t matrix, std::int64_t row, std::int64_t col) {
  return load_float(matrices.row(matrix, row) + col * matrices.col_stride(), matrices.dtype());
}

std::vector<double> first_row(const RecurrenceProblem& problem, const ColumnOfHead& column) {
  std::vector<double> row(static_cast<std::size_t>(problem.Dk), 0.0);
  for (std::int64_t i = 0; !problem.state.empty() && i < problem.Dk; ++i) {
    row[static_cast<std::size_t>(i)] = element(problem.state, column.batch * problem.v_heads + column.head, column.column, i);
  }
  return row;
}

double gamma_of_sum(std::size_t n) {
  const double roundings = std::ceil(static_cast<double>(n) / 16) + 4;
  return roundings * half_ulp / (1 - roundings * half_ulp);
}

RecurrenceElement rounded(RecurrenceElement y, Dtype dtype) {
  const double rounding = dtype == Dtype::bfloat16 ? 0x1p-8 : dtype == Dtype::float16 ? 0x1p-11 : 0;
  const double smallest = dtype == Dtype::bfloat16 ? 0x1p-134 : dtype == Dtype::float16 ? 0x1p-25 : 0;
  y.bound += rounding * (std::fabs(y.value) + y.bound) + smallest;
  return without_bound_if_not_finite(y);
}

RecurrenceElement without_bound_if_not_finite(RecurrenceElement element) {
  return {.value = element.value,
          .bound = std::isfinite(element.value) ? element.bound : std::numeric_limits<double>::infinity()};
}

}  // namespace gqmm::detail
