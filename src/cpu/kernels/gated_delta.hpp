// The gated delta rule, for 16 columns of v and the rows of the state that belong to them. With i over Dk, each column computes
// for a token
//
//     d_i  = g_i · s_i
//     m    = Σ_i d_i · k_i          16 chains of fma from zero, over i ≡ λ mod 16; then lanes 8 apart are added, then 4, 2, 1
//     δ    = (v − m) · beta
//     s_i  = fma(k_i, δ, d_i)
//     y    = Σ_i s_i · q_i          as m
//
// Lanes are elements of k, so a state is read and written as it lies in memory:
//
//     column 0     s0 … s15 | s16 … s31 | …        its 16 chains: a row of `partial`
//     column 1     s0 … s15 | s16 … s31 | …
//        ⋮
//
// The chains of 16 columns are transposed at the end of a token, and then added without additions across lanes. (With columns as
// lanes there are no such sums, but the state of a single token is transposed twice, which takes four times as long.) The pass
// over the rows that ends a token begins the next one: it leaves d of that token in the state, and sums up its m.
#pragma once

#include "assertion.hpp"
#include "cpu/kernels/each_vector.hpp"
#include "cpu/kernels/layer_table.hpp"
#include "cpu/kernels/state_rows.hpp"
#include "cpu/simd/vocabulary.hpp"

#include <algorithm>

namespace gqmm::cpu {
namespace {

/// next ← g · state, and the chains of m, for some columns.
template <class V, int columns>
void begin_columns(StateRows<const std::byte> state, StateRows<std::byte> next, std::int64_t Dk, const float* g, const float* k,
                   float (*m)[lanes]) {
  typename V::f32 chain[columns];
  std::fill_n(chain, columns, V::broadcast(0.0F));
  for_each_vector(Dk, [&](std::int64_t i, int count) __attribute__((always_inline)) {
    const auto g_f32 = V::load(g + i);
    const auto k_f32 = V::load(k + i);
    for (int c = 0; c < columns; ++c) {
      const auto d = V::mul(g_f32, V::as_f32(V::load_words(state.first + c * state.stride + 4 * i, count)));
      V::store_words(next.first + c * next.stride + 4 * i, V::as_i32(d), count);
      chain[c] = V::fma(d, k_f32, chain[c]);
    }
  });
  for (int c = 0; c < columns; ++c) {
    V::store(m[c], chain[c]);
  }
}

/// What the pass over the rows needs of a token, and of the next one if there is one.
struct TokenRows {
  const float* q;
  const float* k;
  const float* next_g;
  const float* next_k;
};

/// Ends a token whose state has decayed, and begins the next one: s ← s + k · δ and the chains of y; then begin_columns. All that
/// does not change is loaded before the first store, because a store of bytes could change anything.
template <class V, int columns, bool has_next>
void end_columns(StateRows<std::byte> state, std::int64_t Dk, TokenRows token, const float* delta, float (*y)[lanes],
                 float (*m)[lanes]) {
  typename V::f32 delta_f32[columns];
  typename V::f32 chain_y[columns];
  typename V::f32 chain_m[columns];
  for (int c = 0; c < columns; ++c) {
    delta_f32[c] = V::broadcast(delta[c]);
    chain_y[c] = chain_m[c] = V::broadcast(0.0F);
  }
  for_each_vector(Dk, [&](std::int64_t i, int count) __attribute__((always_inline)) {
    const auto q_f32 = V::load(token.q + i);
    const auto k_f32 = V::load(token.k + i);
    [[maybe_unused]] const auto next_g_f32 = V::load((has_next ? token.next_g : token.k) + i);
    [[maybe_unused]] const auto next_k_f32 = V::load((has_next ? token.next_k : token.k) + i);
    for (int c = 0; c < columns; ++c) {
      std::byte* const at = state.first + c * state.stride + 4 * i;
      auto s = V::fma(k_f32, delta_f32[c], V::as_f32(V::load_words(at, count)));
      if (count < lanes) {
        s = first_lanes<V>(s, count);  // 0 · δ is NaN for an infinite δ
      }
      chain_y[c] = V::fma(s, q_f32, chain_y[c]);
      if constexpr (has_next) {
        s = V::mul(next_g_f32, s);
        chain_m[c] = V::fma(s, next_k_f32, chain_m[c]);
      } else {
        s = V::canonical(s);
      }
      V::store_words(at, V::as_i32(s), count);
    }
  });
  for (int c = 0; c < columns; ++c) {
    V::store(y[c], chain_y[c]);
    if constexpr (has_next) {
      V::store(m[c], chain_m[c]);
    }
  }
}

template <class V>
void delta_rule(const RecurrenceArguments& a) {
  GQMM_ASSERT(a.columns >= 1 && a.columns <= lanes && a.Dk >= 1);
  if (a.tokens == 0) {
    return copy_state<V>(a);
  }
  const std::int64_t row = (a.Dk + lanes - 1) / lanes * lanes;
  const StateRows<const std::byte> state = {a.state, a.state_stride};
  const StateRows<std::byte> next = {a.next_state, a.next_stride};
  PartialSums y;
  PartialSums m;
  for_each_group<V>(a.columns, [&]<int n>(int c) { begin_columns<V, n>(state.from(c), next.from(c), a.Dk, a.g, a.k, m.of + c); });
  for (std::int64_t t = 0; t < a.tokens; ++t) {
    float* const v = a.v + t * a.v_stride;
    alignas(64) float delta[lanes];
    V::store(delta, V::mul(V::sub(V::load(v), total<V>(m)), V::broadcast(a.beta[t])));
    const TokenRows token = {
        .q = a.q + t * row, .k = a.k + t * row, .next_g = a.g + (t + 1) * row, .next_k = a.k + (t + 1) * row};
    for_each_group<V>(a.columns, [&]<int n>(int c) {
      if (t + 1 < a.tokens) {
        end_columns<V, n, true>(next.from(c), a.Dk, token, delta + c, y.of + c, m.of + c);
      } else {
        end_columns<V, n, false>(next.from(c), a.Dk, token, delta + c, y.of + c, m.of + c);
      }
    });
    V::store(v, total<V>(y));
  }
}

}  // namespace
}  // namespace gqmm::cpu
