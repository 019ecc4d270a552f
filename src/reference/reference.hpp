// The specification: the product in double precision from the packed bits, one output at a time, and the error bound that every
// backend must keep (docs/numerics.md).
#pragma once

#include "plan/problem.hpp"

#include <gqmm/export.hpp>

#include <vector>

namespace gqmm {

/// What one output should be and how far from it a result may lie.
struct ReferenceValue {
  double y = 0;          ///< Σ_k x_k · ŵ_k
  double magnitude = 0;  ///< Σ_g G_g · Σ_{k∈g} |x_k|, with G_g = max(|scale| · max|value|, |bias|)
  double plain = 0;      ///< Σ_k |x_k| · |ŵ_k|
};

/// Output [pair, m, n] of the problem.
GQMM_API ReferenceValue reference_value(const Problem& problem, std::int64_t pair, std::int64_t m, std::int64_t n);

/// The dequantized weight ŵ[expert, n, k] (or [expert, k, n] without transpose) in double.
double reference_weight(const Problem& problem, std::int64_t expert, std::int64_t n, std::int64_t k);

/// û|ref| + c · 2^(−p) · magnitude: docs/numerics.md derives it. Infinite where the reference is not finite or beyond the range
/// of the result type.
GQMM_API double error_bound(const Problem& problem, const ReferenceValue& reference);

/// |y − ref| / error_bound; 0 where both are the same infinity or both NaN, Inf where only one of them is finite.
GQMM_API double error_fraction(const Problem& problem, const ReferenceValue& reference, float y);

}  // namespace gqmm
