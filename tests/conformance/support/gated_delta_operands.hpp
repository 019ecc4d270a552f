// Operands of the gated delta rule for its tests.
#pragma once

#include "conformance/support/recurrence_operands.hpp"

#include <cmath>
#include <cstdint>
#include <vector>

namespace gqmm::conformance {

/// A call with operands as models have them: keys of length 1, decay and beta between 0 and 1.
struct GatedDeltaCall {
  using Result = GatedDeltaResult;

  array q;
  array k;
  array v;
  array g;
  array beta;
  GatedDeltaOptions options = {};

  /// Row-major operands of one type. No state, no mask, one factor of decay for a head.
  GatedDeltaCall(const RecurrenceExtents& e, Dtype type, std::uint64_t seed) {
    Random random(seed);
    const double length = 1 / std::sqrt(static_cast<double>(e.Dk));
    q = normal({e.B, e.T, e.Hk, e.Dk}, type, random, length);
    k = normal({e.B, e.T, e.Hk, e.Dk}, type, random, length);
    v = normal({e.B, e.T, e.Hv, e.Dv}, type, random);
    g = uniform({e.B, e.T, e.Hv}, type, random);
    beta = uniform({e.B, e.T, e.Hv}, type, random);
  }

  /// Operands of any shape, type and layout, often with a state and a mask.
  explicit GatedDeltaCall(std::uint64_t seed) : GatedDeltaCall(Random(seed)) {}

  [[nodiscard]] GatedDeltaResult run() const { return gated_delta_update(q, k, v, g, beta, options); }

  /// The operands that have tokens, and those that have none.
  std::vector<array*> of_tokens() { return {&q, &k, &v, &g, &beta}; }
  static std::vector<array*> of_heads() { return {}; }
  [[nodiscard]] RecurrenceExtents extents() const { return {v.dim(0), v.dim(1), k.dim(2), v.dim(2), k.dim(3), v.dim(3)}; }

 private:
  // Arguments in braces are evaluated from left to right; in parentheses, each compiler would draw them in an order of its own.
  explicit GatedDeltaCall(Random random)
      : GatedDeltaCall{RecurrenceExtents::random(random), random.one_of(compute_types), random.bits()} {
    const RecurrenceExtents e = extents();
    if (random.chance(0.4)) {
      g = uniform({e.B, e.T, e.Hv, e.Dk}, random.one_of(compute_types), random);
    }
    for (array* operand : of_tokens()) {
      *operand = in_any_layout(*operand, random);
    }
    draw_state_and_mask(e, options, random);
  }
};

}  // namespace gqmm::conformance
