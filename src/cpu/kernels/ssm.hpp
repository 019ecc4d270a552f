// The recurrence of state space models, for 16 columns of v and the rows of the state that belong to them. With i over Dk, each
// column computes for a token
//
//     δ    = v · beta               beta is the time step
//     s_i  = fma(g, s_i, k_i · δ)   one factor g for all i
//     y    = fma(skip, v, Σ_i s_i · q_i)
//
// Lanes are elements of k, and sums have the order that they have in the gated delta rule (gated_delta.hpp).
#pragma once

#include "assertion.hpp"
#include "cpu/kernels/elementary_functions.hpp"
#include "cpu/kernels/layer_table.hpp"
#include "cpu/kernels/state_rows.hpp"
#include "cpu/simd/vocabulary.hpp"

namespace gqmm::cpu {
namespace {

/// A token's rows, and its factor of decay.
struct SsmToken {
  const float* q;
  const float* k;
  float g;
};

/// next ← g · state + k · δ, and the chains of y, for some columns. All that does not change is loaded before the first store,
/// because a store of bytes could change anything.
template <class V, int columns, bool is_last>
void advance_columns(StateRows<const std::byte> state, StateRows<std::byte> next, std::int64_t Dk, SsmToken token,
                     const float* delta, float (*y)[lanes]) {
  const auto g_f32 = V::broadcast(token.g);
  typename V::f32 delta_f32[columns];
  typename V::f32 chain[columns];
  for (int c = 0; c < columns; ++c) {
    delta_f32[c] = V::broadcast(delta[c]);
    chain[c] = V::broadcast(0.0F);
  }
  for_each_vector(Dk, [&](std::int64_t i, int count) __attribute__((always_inline)) {
    const auto q_f32 = V::load(token.q + i);
    const auto k_f32 = V::load(token.k + i);
    for (int c = 0; c < columns; ++c) {
      const auto before = V::as_f32(V::load_words(state.first + c * state.stride + 4 * i, count));
      auto s = V::fma(g_f32, before, V::mul(k_f32, delta_f32[c]));
      if (count < lanes) {
        s = first_lanes<V>(s, count);  // 0 · δ is NaN for an infinite δ
      }
      chain[c] = V::fma(s, q_f32, chain[c]);
      if constexpr (is_last) {
        s = V::canonical(s);
      }
      V::store_words(next.first + c * next.stride + 4 * i, V::as_i32(s), count);
    }
  });
  for (int c = 0; c < columns; ++c) {
    V::store(y[c], chain[c]);
  }
}

template <class V>
void ssm_step(const RecurrenceArguments& a) {
  GQMM_ASSERT(a.columns >= 1 && a.columns <= lanes && a.Dk >= 1);
  if (a.tokens == 0) {
    return copy_state<V>(a);
  }
  const std::int64_t row = (a.Dk + lanes - 1) / lanes * lanes;
  const StateRows<std::byte> next = {a.next_state, a.next_stride};
  StateRows<const std::byte> state = {a.state, a.state_stride};
  PartialSums y;
  for (std::int64_t t = 0; t < a.tokens; ++t) {
    float* const v = a.v + t * a.v_stride;
    alignas(64) float delta[lanes];
    V::store(delta, V::mul(V::load(v), V::broadcast(a.beta[t])));
    const SsmToken token = {.q = a.q + t * row, .k = a.k + t * row, .g = a.g[t]};
    for_each_group<V>(a.columns, [&]<int n>(int c) {
      if (t + 1 < a.tokens) {
        advance_columns<V, n, false>(state.from(c), next.from(c), a.Dk, token, delta + c, y.of + c);
      } else {
        advance_columns<V, n, true>(state.from(c), next.from(c), a.Dk, token, delta + c, y.of + c);
      }
    });
    V::store(v, V::fma(V::broadcast(a.skip), V::load(v), total<V>(y)));
    state = {a.next_state, a.next_stride};
  }
}

/// Δ = clip(softplus(dt + dt_bias)) and e^(−e^A_log · Δ).
template <class V>
void time_steps(const TimeStepArguments& a) {
  const auto steps = softplus<V>(V::add(V::load(a.time_step), V::broadcast(a.dt_bias)));
  const auto clipped = V::min(V::broadcast(a.largest), V::max(V::broadcast(a.smallest), steps));
  const auto rate = V::mul(exp<V>(V::broadcast(a.A_log)), clipped);
  V::store(a.time_step, clipped);
  V::store(a.decay, exp_nonpositive<V>(V::sub(V::broadcast(0.0F), rate)));
}

}  // namespace
}  // namespace gqmm::cpu
