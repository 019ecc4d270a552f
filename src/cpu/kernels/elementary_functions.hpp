// Elementary functions of activations and gates, each written once over a vocabulary. They consist of correctly rounded
// operations in a fixed order, so every instruction set gives the same bits.
//
//     function                     largest error, all 2^32 arguments
//     exp_nonpositive(x), x ≤ 0    e^x                        1.01 ulp
//     exp2_nonpositive(x), x ≤ 0   2^x                        0.80 ulp for x ≥ −126; below, 2^−126 absolute
//     exp(x)                       e^x                        1.01 ulp
//     sigmoid(x)                   1 / (1 + e^−x)             2.41 ulp
//     softplus(x)                  ln(1 + e^x)                2.9  ulp
//     tanh(x)                                                 2.5  ulp
//     normal_cdf(x)                (1 + erf(x / √2)) / 2      6.4  ulp
//
// An ulp is 2^−23 of the power of two at or below the exact value, and at least 2^−149. NaN gives NaN; infinities and large
// arguments give the limits, and subnormal results are rounded like others. tests/cpu/elementary_functions_test.cpp checks all
// this.
//
// GELU needs (1 + erf) / 2. Where erf is near −1, this sum would lose all its digits, so there is no erf: normal_cdf has a
// formula for the left tail.
#pragma once

#include "cpu/simd/vocabulary.hpp"

namespace gqmm::cpu {
namespace {

/// x = n · ln 2 + r, where n is a whole number and |r| is at most about ½ ln 2.
template <class V>
struct ReducedExponent {
  typename V::i32 n_in_exponent;  // (n + offset) · 2^23: added to the bits of 1, it gives 2^(n + offset)
  typename V::f32 expm1;          // e^r − 1
};

/// |x| must be below 2^20; NaN stays NaN in `expm1`.
template <class V, int offset>
ReducedExponent<V> reduce_exponent(typename V::f32 x) {
  // The last place of `magic` is 1, so the sum's lowest bits are the whole number n + offset.
  const auto magic = V::broadcast(12582912.0F + static_cast<float>(offset));  // 1.5 · 2^23
  const auto shifted = V::fma(x, V::broadcast(0x1.715476p+0F), magic);        // 1 / ln 2
  const auto n = V::sub(shifted, magic);
  // ln 2 as the sum of two floats. The first fma is exact.
  auto r = V::fma(n, V::broadcast(-0x1.62e430p-1F), x);
  r = V::fma(n, V::broadcast(0x1.05c610p-29F), r);
  // e^r = 1 + r + r² · p(r), with the smallest relative error on |r| ≤ ½ ln 2: 2^−28.3. One term less has 2^−23.2.
  auto p = V::broadcast(0x1.6a23cep-10F);
  p = V::fma(p, r, V::broadcast(0x1.123a20p-7F));
  p = V::fma(p, r, V::broadcast(0x1.5558f2p-5F));
  p = V::fma(p, r, V::broadcast(0x1.555492p-3F));
  p = V::fma(p, r, V::broadcast(0x1.fffffcp-2F));
  return {V::template shift_left<23>(V::as_i32(shifted)), V::fma(V::mul(r, r), p, r)};
}

/// e^x for x ≤ 0. Larger arguments, up to 40, would do as well.
template <class V>
typename V::f32 exp_nonpositive(typename V::f32 x) {
  // Below −105 all results are 0. The power of two is 2^64 too large, so that it is normal; the last product rounds.
  const auto reduced = reduce_exponent<V, 64>(V::max(V::broadcast(-105.0F), x));
  const auto power = V::as_f32(V::add(reduced.n_in_exponent, V::broadcast(0x3f800000)));
  return V::mul(V::mul(V::add(reduced.expm1, V::broadcast(1.0F)), power), V::broadcast(0x1p-64F));
}

/// e^x for any x.
template <class V>
typename V::f32 exp(typename V::f32 x) {
  // Outside of these limits all results are 0 or infinite. Half of the power of two is multiplied at a time, so that both halves
  // are normal; the last product rounds.
  const auto bounded = V::min(V::broadcast(89.0F), V::max(V::broadcast(-105.0F), x));
  const auto reduced = reduce_exponent<V, 0>(bounded);
  const auto half = V::template shift_left<23>(V::template shift_right_arithmetic<24>(reduced.n_in_exponent));
  const auto rest = V::sub(reduced.n_in_exponent, half);
  const auto one = V::broadcast(0x3f800000);
  const auto power = V::mul(V::add(reduced.expm1, V::broadcast(1.0F)), V::as_f32(V::add(half, one)));
  return V::mul(power, V::as_f32(V::add(rest, one)));
}

/// 2^x for x ≤ 0, for the weights of a softmax. It is exactly 1 for 0. From about −126.5 down it is exactly +0.
template <class V>
typename V::f32 exp2_nonpositive(typename V::f32 x) {
  // x = n + r with a whole n and |r| ≤ ½. The last place of `magic` is 1, so the lowest bits of the sum are n + 127, which is the
  // exponent of 2^n.
  const auto magic = V::broadcast(12582912.0F + 127.0F);  // 1.5 · 2^23
  const auto bounded = V::max(V::broadcast(-127.0F), x);
  const auto shifted = V::add(bounded, magic);
  const auto r = V::sub(bounded, V::sub(shifted, magic));  // exact
  // 2^r = 1 + r · (…), with 0.80 ulp on all r. One term less has 2.12 ulp.
  auto p = V::broadcast(0x1.417d4ep-13F);
  p = V::fma(p, r, V::broadcast(0x1.5f0952p-10F));
  p = V::fma(p, r, V::broadcast(0x1.3b2dd0p-7F));
  p = V::fma(p, r, V::broadcast(0x1.c6af7ap-5F));
  p = V::fma(p, r, V::broadcast(0x1.ebfbdcp-3F));
  p = V::fma(p, r, V::broadcast(0x1.62e430p-1F));
  p = V::fma(p, r, V::broadcast(1.0F));
  return V::mul(p, V::as_f32(V::template shift_left<23>(V::as_i32(shifted))));
}

template <class V>
typename V::f32 magnitude(typename V::f32 x) {
  return V::as_f32(V::bit_and(V::as_i32(x), V::broadcast(0x7fffffff)));
}
template <class V>
typename V::i32 sign_bit() {
  return V::broadcast(static_cast<std::int32_t>(0x80000000U));
}

/// t / (1 + t) for negative x and 1 / (1 + t) for others, where t = e^−|x|. Nothing cancels and nothing overflows.
template <class V>
typename V::f32 sigmoid(typename V::f32 x) {
  const auto one = V::broadcast(1.0F);
  const auto t = exp_nonpositive<V>(V::as_f32(V::bit_or(V::as_i32(x), sign_bit<V>())));
  return V::div(V::select_less(x, V::broadcast(0.0F), t, one), V::add(t, one));
}

/// max(x, 0) + ln(1 + t), where t = e^−|x|. With z = t / (2 + t), the logarithm is 2 · artanh(z), in which nothing cancels.
template <class V>
typename V::f32 softplus(typename V::f32 x) {
  const auto t = exp_nonpositive<V>(V::as_f32(V::bit_or(V::as_i32(x), sign_bit<V>())));
  const auto z = V::div(t, V::add(t, V::broadcast(2.0F)));
  // artanh(z) = z + z³ · p(z²), with the smallest relative error on z ≤ 1/3: 2^−27.4. One term less has 2^−22.3.
  const auto square = V::mul(z, z);
  auto p = V::broadcast(0x1.1ed836p-3F);
  p = V::fma(p, square, V::broadcast(0x1.1ebcf6p-3F));
  p = V::fma(p, square, V::broadcast(0x1.99d20ap-3F));
  p = V::fma(p, square, V::broadcast(0x1.555502p-2F));
  const auto twice = V::add(z, z);
  return V::add(V::max(V::broadcast(0.0F), x), V::fma(V::mul(twice, square), p, twice));
}

/// d / (2 − d) with the sign of x, where d = 1 − e^−2|x|. Nothing cancels, because d comes from e^r − 1.
template <class V>
typename V::f32 tanh(typename V::f32 x) {
  // Beyond 10, d rounds to 1.
  const auto doubled = V::as_f32(V::bit_or(V::as_i32(V::add(x, x)), sign_bit<V>()));
  const auto reduced = reduce_exponent<V, 0>(V::max(V::broadcast(-20.0F), doubled));
  const auto minus_power = V::as_f32(V::add(reduced.n_in_exponent, V::as_i32(V::broadcast(-1.0F))));
  const auto d = V::fma(minus_power, reduced.expm1, V::add(minus_power, V::broadcast(1.0F)));
  const auto result = V::div(d, V::sub(V::broadcast(2.0F), d));
  return V::as_f32(V::bit_or(V::as_i32(result), V::bit_and(V::as_i32(x), sign_bit<V>())));
}

/// The distribution function of the normal distribution. Its left tail is e^(−x²/2) · p(|x|) / q(|x|).
template <class V>
typename V::f32 normal_cdf(typename V::f32 x) {
  // Beyond 14.5 the tail is 0.
  const auto a = V::min(V::broadcast(14.5F), magnitude<V>(x));
  // −a²/2 as a sum: the second part is the rounding error of the first. Without it, the tail would lose 7 bits.
  const auto minus_half = V::mul(a, V::broadcast(-0.5F));
  const auto exponent = V::mul(a, minus_half);
  const auto rest = V::fma(a, minus_half, V::sub(V::broadcast(0.0F), exponent));
  // e^(a²/2) · ½ erfc(a/√2), with the smallest relative error on 0 ≤ a ≤ 14.5: 2^−27.3. All coefficients are positive, so
  // rounding errors stay relative.
  auto p = V::broadcast(0.004116159518204957F);
  p = V::fma(p, a, V::broadcast(0.04063231689523253F));
  p = V::fma(p, a, V::broadcast(0.1832325820813837F));
  p = V::fma(p, a, V::broadcast(0.4382917217771234F));
  p = V::fma(p, a, V::broadcast(0.5F));
  auto q = V::broadcast(0.010317562078252808F);
  q = V::fma(q, a, V::broadcast(0.10185656192796941F));
  q = V::fma(q, a, V::broadcast(0.4694638389879347F));
  q = V::fma(q, a, V::broadcast(1.2024928824891228F));
  q = V::fma(q, a, V::broadcast(1.674468423895213F));
  q = V::fma(q, a, V::broadcast(1.0F));
  const auto ratio = V::div(p, q);
  const auto tail = V::mul(V::fma(ratio, rest, ratio), exp_nonpositive<V>(exponent));
  return V::select_less(x, V::broadcast(0.0F), tail, V::sub(V::broadcast(1.0F), tail));
}

}  // namespace
}  // namespace gqmm::cpu
