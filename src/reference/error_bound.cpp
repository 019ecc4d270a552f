#include "reference/reference.hpp"

#include <cmath>
#include <limits>

namespace gqmm::detail {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

struct FloatRange {
  double unit_roundoff;
  double smallest_subnormal;
  double largest;
};

FloatRange range_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::float16: return {0x1p-11, 0x1p-24, 65504.0};
    case Dtype::bfloat16: return {0x1p-8, 0x1p-133, 0x1.fep127};
    default: return {0x1p-24, 0x1p-149, 0x1.fffffep127};
  }
}

/// 2^(−p), where p is the precision of the activations in bits. p is 22, 13 and 6 for 3, 2 and 1 slices. On the float path it is
/// that of 3 slices.
double activation_ulp(const Problem& problem, bool float_path) {
  constexpr double by_slices[] = {0x1p-6, 0x1p-13, 0x1p-22};
  return float_path ? by_slices[2] : by_slices[problem.slices - 1];
}

}  // namespace

double error_bound(const Problem& problem, const ReferenceValue& reference) {
  const FloatRange range = range_of(problem.y_dtype);
  if (!std::isfinite(reference.y) || std::fabs(reference.y) > range.largest || !(reference.magnitude < 0x1.fffffep127)) {
    return infinity;
  }
  const bool float_path = !multiplies_integers(problem.weights);
  const double additions = static_cast<double>(float_path ? problem.K : 2 * problem.K / quantized(problem.weights)->group_size());
  const double c = 6.0 + std::sqrt(additions);
  // The last two terms are for values below the normal range. There the result and up to K products and sums are rounded to a
  // multiple of the smallest subnormal. These products occur because subnormal groups of x take the float path.
  return range.unit_roundoff * std::fabs(reference.y) + c * activation_ulp(problem, float_path) * reference.magnitude +
         range.smallest_subnormal + (additions + static_cast<double>(problem.K)) * 0x1p-149;
}

double error_fraction(double expected, double bound, float y) {
  if (std::isinf(bound)) {
    const bool agree = std::isfinite(expected) ? true : std::isnan(expected) ? std::isnan(y) : expected == y;
    return agree ? 0.0 : infinity;
  }
  return std::isfinite(y) ? std::fabs(static_cast<double>(y) - expected) / bound : infinity;
}

double error_fraction(const Problem& problem, const ReferenceValue& reference, float y) {
  return error_fraction(reference.y, error_bound(problem, reference), y);
}

}  // namespace gqmm::detail
