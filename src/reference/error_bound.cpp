#include "reference/reference.hpp"

#include <cmath>
#include <limits>

namespace gqmm {
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

/// Precision of the activations, p of the bound: 22, 13, 6 for 3, 2, 1 slices. The float path is float32 throughout.
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
  const bool float_path = problem.format == nullptr || !problem.format->integer.exists || !problem.transpose;
  const double additions = static_cast<double>(float_path ? problem.K : 2 * problem.K / problem.group_size);
  const double c = 6.0 + std::sqrt(additions);
  // The last terms: below the normal range, the result and up to K products and sums (subnormal groups of x take the float path)
  // are rounded to a multiple of the smallest subnormal.
  return range.unit_roundoff * std::fabs(reference.y) + c * activation_ulp(problem, float_path) * reference.magnitude +
         range.smallest_subnormal + (additions + static_cast<double>(problem.K)) * 0x1p-149;
}

double error_fraction(const Problem& problem, const ReferenceValue& reference, float y) {
  const double bound = error_bound(problem, reference);
  if (std::isinf(bound)) {
    const bool agree = std::isfinite(reference.y) ? true : std::isnan(reference.y) ? std::isnan(y) : reference.y == y;
    return agree ? 0.0 : infinity;
  }
  return std::isfinite(y) ? std::fabs(static_cast<double>(y) - reference.y) / bound : infinity;
}

}  // namespace gqmm
