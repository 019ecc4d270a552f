// The specification of the product. It computes one output at a time, in double precision and from the packed bits. Beside it is
// the error bound that every backend must keep (docs/reference/numerics.md).
#pragma once

#include "plan/problem.hpp"

#include <vector>

namespace gqmm::detail {

/// The exact value of one output, and the sums from which its error bound follows.
struct ReferenceValue {
  double y = 0;          ///< Σ_k x_k · ŵ_k
  double magnitude = 0;  ///< Σ_g G_g · Σ_{k∈g} |x_k|, with G_g = max(|scale| · max|value|, |bias|)
  double plain = 0;      ///< Σ_k |x_k| · |ŵ_k|
};

/// A weight of a product in double precision.
struct ReferenceWeight {
  double value;            ///< ŵ before it is rounded
  double group_magnitude;  ///< G_g = max(|scale| · max|value|, |bias|)
};
/// Decodes the weight [expert, n, k] of matrices (experts, N, K).
ReferenceWeight reference_weight(const WeightMatrices& weights, std::int64_t N, std::int64_t K, std::int64_t expert,
                                 std::int64_t n, std::int64_t k);

/// The reference value of output [pair, m, n] of the problem.
ReferenceValue reference_value(const Problem& problem, std::int64_t pair, std::int64_t m, std::int64_t n);

/// How far a result may be from the reference: û|ref| + c · 2^(−p) · magnitude, which docs/reference/numerics.md derives. The
/// bound is infinite if the reference is not finite or is beyond the range of the result type.
double error_bound(const Problem& problem, const ReferenceValue& reference);

/// The error of y as a fraction of its bound: |y − expected| / bound. The bound is infinite if `expected` is not finite, or if y
/// may overflow. The fraction is then 0 if both are the same infinity, if both are NaN, or if `expected` is finite. It is
/// infinite if only y is not finite.
double error_fraction(double expected, double bound, float y);
/// The same with error_bound.
double error_fraction(const Problem& problem, const ReferenceValue& reference, float y);

}  // namespace gqmm::detail
