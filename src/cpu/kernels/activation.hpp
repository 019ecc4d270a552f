// Activations over float32 rows:
//
//     h[i] = activation(gate[i], up[i])
//
// docs/reference/numerics.md states the order of the operations of every activation. It is part of the contract.
#pragma once

#include "assertion.hpp"
#include "cpu/kernels/elementary_functions.hpp"
#include "cpu/kernels/kernel_table.hpp"

namespace gqmm::cpu {
namespace {

/// x · factor, where the factor vanishes for x = −Inf: −Inf becomes the most negative number, so the product is −0 and not NaN.
template <class V>
typename V::f32 weigh(typename V::f32 x, typename V::f32 factor) {
  return V::mul(V::max(V::broadcast(-0x1.fffffep127F), x), factor);
}

template <class V>
typename V::f32 silu(typename V::f32 x) {
  return weigh<V>(x, sigmoid<V>(x));
}

/// x · ½ (1 + erf(x / √2))
template <class V>
typename V::f32 gelu(typename V::f32 x) {
  return weigh<V>(x, normal_cdf<V>(x));
}

/// x · ½ (1 + tanh(√(2/π) · (x + 0.044715 · x³))). Half of 1 + tanh(z) is sigmoid(2z), in which nothing cancels.
template <class V>
typename V::f32 gelu_tanh(typename V::f32 x) {
  const auto slope = V::fma(V::mul(x, x), V::broadcast(0x1.2444f2p-4F), V::broadcast(0x1.988454p+0F));
  return weigh<V>(x, sigmoid<V>(V::mul(x, slope)));
}

/// `scale` · tanh(x / scale)
template <class V>
typename V::f32 soft_clip(typename V::f32 x, typename V::f32 scale) {
  return V::mul(scale, tanh<V>(V::div(x, scale)));
}

/// The constants of an activation, in all lanes.
template <class V>
struct Constants {
  explicit Constants(const ActivationConstants& c)
      : alpha(V::broadcast(c.alpha)),
        limit(V::broadcast(c.limit)),
        minus_limit(V::broadcast(-c.limit)),
        bias(V::broadcast(c.bias)),
        beta(V::broadcast(c.beta)),
        linear_beta(V::broadcast(c.linear_beta)) {}
  typename V::f32 alpha, limit, minus_limit, bias, beta, linear_beta;

  // A NaN passes through both, because min and max return their second argument then.
  typename V::f32 clip_above(typename V::f32 x) const { return V::min(limit, x); }
  typename V::f32 clip(typename V::f32 x) const { return V::max(minus_limit, V::min(limit, x)); }
};

template <class V, ActivationKind kind>
typename V::f32 activation(typename V::f32 gate, typename V::f32 up, const Constants<V>& c) {
  if constexpr (kind == ActivationKind::swiglu) {
    const auto g = c.clip_above(gate);
    return V::mul(V::add(c.clip(up), c.bias), weigh<V>(g, sigmoid<V>(V::mul(c.alpha, g))));
  } else if constexpr (kind == ActivationKind::geglu) {
    return V::mul(up, gelu<V>(gate));
  } else if constexpr (kind == ActivationKind::geglu_tanh) {
    return V::mul(up, gelu_tanh<V>(gate));
  } else if constexpr (kind == ActivationKind::situ) {
    return V::mul(up, V::mul(soft_clip<V>(gate, c.beta), sigmoid<V>(gate)));
  } else if constexpr (kind == ActivationKind::situ_linear) {
    return activation<V, ActivationKind::situ>(gate, soft_clip<V>(up, c.linear_beta), c);
  } else if constexpr (kind == ActivationKind::swiglu_step) {
    return V::mul(c.clip(up), c.clip_above(silu<V>(gate)));
  } else if constexpr (kind == ActivationKind::silu) {
    return silu<V>(gate);
  } else if constexpr (kind == ActivationKind::gelu) {
    return gelu<V>(gate);
  } else if constexpr (kind == ActivationKind::gelu_tanh) {
    return gelu_tanh<V>(gate);
  } else {
    static_assert(kind == ActivationKind::relu2);
    const auto positive = V::max(V::broadcast(0.0F), gate);
    return V::mul(positive, positive);
  }
}

template <class V, ActivationKind kind>
void activate(const ActivationArguments& a) {
  GQMM_ASSERT(a.n >= 0 && a.gate != nullptr && a.h != nullptr);
  GQMM_ASSERT((a.up != nullptr) == is_gated(kind));
  const Constants<V> constants(a.constants);
  const auto step = [&](std::int64_t i, int count) __attribute__((always_inline)) {
    const auto load = [&](const float* row) {
      return V::as_f32(V::load_words(reinterpret_cast<const std::byte*>(row + i), count));
    };
    const auto gate = load(a.gate);
    const auto h = activation<V, kind>(gate, is_gated(kind) ? load(a.up) : gate, constants);
    V::store_words(reinterpret_cast<std::byte*>(a.h + i), V::as_i32(h), count);
  };
  std::int64_t i = 0;
  for (; i + lanes <= a.n; i += lanes) {
    step(i, lanes);
  }
  if (i < a.n) {
    step(i, static_cast<int>(a.n - i));
  }
}

}  // namespace
}  // namespace gqmm::cpu
