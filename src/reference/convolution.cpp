#include "reference/convolution.hpp"

#include "formats/float_types.hpp"

#include <cmath>
#include <limits>

namespace gqmm::detail {

ConvolutionElement reference_depthwise_conv1d(const ConvolutionProblem& problem, std::int64_t sequence, std::int64_t row,
                                              std::int64_t channel) {
  double sum = 0;
  double magnitude = 0;
  for (std::int64_t k = 0; k < problem.taps(); ++k) {
    const MatrixBatch& x = problem.x;
    const std::int64_t at = problem.x_row(row, k);
    const double x_value = problem.has_row(at) ? load_float(x.row(sequence, at) + channel * x.col_stride(), x.dtype()) : 0.0F;
    const double w_value = load_float(problem.weight.row(0, channel) + k * problem.weight.col_stride(), problem.weight.dtype());
    sum += x_value * w_value;
    magnitude += std::fabs(x_value * w_value);
  }
  if (!std::isfinite(sum)) {
    return {.value = sum, .bound = std::numeric_limits<double>::infinity()};
  }
  const double u = 0x1p-24;
  const auto taps = static_cast<double>(problem.taps());
  const double of_sum = taps * u / (1 - taps * u) * magnitude + taps * 0x1p-150;
  const bool is_bfloat16 = problem.y_dtype == Dtype::bfloat16;
  const bool is_float16 = problem.y_dtype == Dtype::float16;
  const double rounding = is_bfloat16 ? 0x1p-8 : is_float16 ? 0x1p-11 : 0;
  const double smallest = is_bfloat16 ? 0x1p-134 : is_float16 ? 0x1p-25 : 0;
  return {.value = sum, .bound = of_sum + rounding * (std::fabs(sum) + of_sum) + smallest};
}

}  // namespace gqmm::detail
