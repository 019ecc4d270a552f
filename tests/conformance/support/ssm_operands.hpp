// Operands of the state space recurrence for its tests.
#pragma once

#include "conformance/support/recurrence_operands.hpp"

#include <cstdint>
#include <limits>
#include <vector>

namespace gqmm::conformance {

/// A call with operands as models have them: e^A_log between 1 and 16, time steps from small ones to several.
struct SsmCall {
  using Result = SsmResult;

  array v;  // hidden_states
  array A_log;
  array B;
  array C;
  array D;
  array dt;
  array dt_bias;
  SsmOptions options = {};

  /// Row-major operands of one type. No state, no mask, no lengths.
  SsmCall(const RecurrenceExtents& e, Dtype type, std::uint64_t seed) {
    Random random(seed);
    v = normal({e.B, e.T, e.Hv, e.Dv}, type, random);
    A_log = uniform({e.Hv}, type, random, 0, 2.8);
    B = normal({e.B, e.T, e.Hk, e.Dk}, type, random);
    C = normal({e.B, e.T, e.Hk, e.Dk}, type, random);
    D = normal({e.Hv}, type, random);
    dt = normal({e.B, e.T, e.Hv}, type, random, 2);
    dt_bias = uniform({e.Hv}, type, random, -6, 1);
  }

  /// Operands of any shape, type and layout, often with a state, a mask, lengths and other limits.
  explicit SsmCall(std::uint64_t seed) : SsmCall(Random(seed)) {}

  [[nodiscard]] SsmResult run() const { return ssm_update(v, A_log, B, C, D, dt, dt_bias, options); }

  /// The operands that have tokens, and those that have none.
  std::vector<array*> of_tokens() { return {&v, &B, &C, &dt}; }
  std::vector<array*> of_heads() { return {&A_log, &D, &dt_bias}; }
  [[nodiscard]] RecurrenceExtents extents() const { return {v.dim(0), v.dim(1), B.dim(2), v.dim(2), B.dim(3), v.dim(3)}; }

 private:
  explicit SsmCall(Random random) : SsmCall{RecurrenceExtents::random(random), random.one_of(compute_types), random.bits()} {
    constexpr TimeStepLimit limits[] = {{}, {.smallest = 0, .largest = std::numeric_limits<float>::infinity()}, {0.05F, 0.8F}};
    const RecurrenceExtents e = extents();
    if (random.chance(0.3)) {
      D = normal({e.Hv}, random.one_of(compute_types), random);
    }
    for (array* operand : of_tokens()) {
      *operand = in_any_layout(*operand, random);
    }
    for (array* operand : of_heads()) {
      *operand = in_any_layout(*operand, random);
    }
    options.time_step_limit = random.one_of(limits);
    draw_state_and_mask(e, options, random);
    if (random.chance(0.3)) {
      std::vector<std::int64_t> lengths;
      for (std::int64_t b = 0; b < e.B; ++b) {
        lengths.push_back(random.integer(-2, e.T + 2));
      }
      options.lengths = integers(lengths);
    }
  }
};

}  // namespace gqmm::conformance
