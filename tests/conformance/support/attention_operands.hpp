// Operands of attention for its tests, and how far results lie from the reference.
#pragma once

#include "conformance/support/random.hpp"
#include "plan/attention_problem.hpp"

#include <gqmm/gqmm.hpp>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

namespace gqmm::conformance {

inline constexpr Dtype compute_types[] = {Dtype::float32, Dtype::float16, Dtype::bfloat16};
inline constexpr float infinity = std::numeric_limits<float>::infinity();

/// Normally distributed numbers.
array normal(const Shape& shape, Dtype dtype, Random& random, double deviation = 1);
array integers(const std::vector<std::int64_t>& values);
/// The part [first, first + count) of a dimension, as a view.
array part(const array& a, std::size_t axis, std::int64_t first, std::int64_t count);
/// A row-major copy.
array copied(const array& a);
/// The array in another arrangement of memory, of any kind.
array in_any_layout(const array& row_major, Random& random);

/// A bool mask that function(query, key) fills.
template <class Function>
array bool_mask(const Shape& shape, const Function& sees) {
  array mask = array::empty(shape, Dtype::bool_);
  const std::int64_t L = shape.back();
  const std::int64_t T = shape[shape.size() - 2];
  for (std::int64_t i = 0; i < mask.size(); ++i) {
    mask.mutable_bytes()[i] = static_cast<std::byte>(sees(i / L % T, i % L) ? 1 : 0);
  }
  return mask;
}

/// No mask, "causal", bool or additive, of any shape that broadcasts to that of the scores.
AttentionMask random_mask(const Shape& scores, Random& random);
/// Often none; else an index for each batch element, inside and outside of the L keys.
std::optional<array> random_origin(std::int64_t batch, std::int64_t L, Random& random);

/// The largest fraction of their bounds that the errors of y have, in some rows that the seed chooses. Infinite if a NaN stands
/// where the reference has none, or the other way round.
double worst_fraction(const detail::AttentionProblem& problem, const array& y, std::uint64_t seed);

}  // namespace gqmm::conformance
