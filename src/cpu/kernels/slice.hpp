// Slicing converts activations to integers. Each group of a row gets one power of two 2^e ≥ max|x|, and
//
//     x_k ≈ 2^(e − bits) · X_k,   X_k = Σ_p 256^(slices − 1 − p) · a_p,k,   a_p,k in −128 … 127,   bits = 8 · slices − 1
//
// The group sums Σ u·a_p are then exact in int32. The magic number of slice p is 1.5 · 2^23 · 2^(e − bits + 8 (slices − 1 − p)).
// An accumulator starts as the bits of this float, so adding the integer 1 adds one unit in the last place. Then (accumulator as
// float) − magic is the scaled sum, exactly, while |Σ u·a| < 2^22.
#pragma once

#include "assertion.hpp"
#include "cpu/kernels/kernel_table.hpp"

namespace gqmm::cpu {
namespace {

static_assert(128 * 255 * largest_group < 1 << 22,
              "the largest group of the widest codes must fit beside the magic number's leading bits");

/// 1.5 · 2^23. One unit in the last place of this float is 1. The float stays in its binade while less than 2^22 is added or
/// subtracted.
inline constexpr std::int32_t magic = 3 << 22;

/// 2^exponent, −126 ≤ exponent ≤ 127.
inline float power_of_two(int exponent) {
  GQMM_ASSERT(exponent >= -126 && exponent <= 127);
  return __builtin_bit_cast(float, (exponent + 127) << 23);
}

// Exceptional groups cannot be represented well in fixed point, so they take the float path. A group is exceptional
//   - if it has a NaN or Inf;
//   - if its e lies outside of the exponents below: magic numbers and sums must stay normal and finite;
//   - if at most two of its values are within 2^6 of 2^e; or if at most an eighth of its nonzero values are, and not all of them.
// In the last case a few outliers would drown the other values. Under weights near zero, the difference between the rounding of
// scale · Σxu and that of bias · Σx would show as well.
//
// Gaussian, Laplace, log-normal (sigma 2) values and products of Gaussians have 93, 86, 25, 55 per cent of their values within
// 2^6 of the largest of 64. So ordinary activations never pay for this. All decisions are made on integers, so they are the same
// on every machine.
inline constexpr int largest_exponent = 55;
inline constexpr int smallest_exponent = -100;
inline constexpr int near_bits = 6;      // a value within 2^6 of 2^e is "near"
inline constexpr int near_fraction = 8;  // more than one nonzero value in 8 must be near
inline constexpr int lone_values = 2;    // more values than this must be near

template <int slices>
struct FixedPoint {
  static constexpr int bits = 8 * slices - 1;
  // The largest X whose top slice is still at most 127, after the carries of the balanced lower slices.
  static constexpr int largest = (1 << bits) - 1 - (slices > 1 ? 128 : 0) - (slices > 2 ? 128 << 8 : 0);
};

template <class V, int slices, bool even_odd, class Load>
bool slice_row(const SliceArguments& a, Load load) {
  GQMM_ASSERT(a.group_size >= lanes && a.group_size % lanes == 0 && a.group_size <= largest_group);
  GQMM_ASSERT(a.K >= a.group_size && a.K % a.group_size == 0);
  using i32 = typename V::i32;
  constexpr int bits = FixedPoint<slices>::bits;
  const auto magnitude_mask = V::broadcast(0x7fffffff);
  std::int32_t* words = a.words;
  float* scales = a.scales;
  bool any_exceptional = false;

  for (std::int64_t g = 0; g < a.K / a.group_size; ++g) {
    const std::int64_t k0 = g * a.group_size;
    i32 largest = V::broadcast(std::int32_t{0});
    for (int k = 0; k < a.group_size; k += lanes) {
      largest = V::max(largest, V::bit_and(V::as_i32(load(k0 + k)), magnitude_mask));
    }
    const std::int32_t top = V::reduce_max(largest);  // as integers, NaN > Inf > every finite value
    int e = (top >> 23) - 126;
    bool exceptional = top != 0 && (e > largest_exponent || e < smallest_exponent);
    if (top == 0) {
      e = 0;
    } else if (!exceptional) {
      const std::int32_t near_bound = (e - near_bits + 127) << 23;
      int nonzero = 0;
      int near_top = 0;
      for (int k = 0; k < a.group_size; k += lanes) {
        const i32 magnitude = V::bit_and(V::as_i32(load(k0 + k)), magnitude_mask);
        nonzero += V::count_at_least(magnitude, 1);
        near_top += V::count_at_least(magnitude, near_bound);
      }
      exceptional = near_top <= lone_values || (near_top < nonzero && near_top * near_fraction <= nonzero);
      const float scaled_top = __builtin_bit_cast(float, top) * power_of_two(bits - e);
      e += scaled_top >= static_cast<float>(FixedPoint<slices>::largest) + 0.5F ? 1 : 0;
    }
    a.exceptional[g] = exceptional ? 1 : 0;
    any_exceptional |= exceptional;
    const auto to_fixed = V::broadcast(exceptional ? 0.0F : power_of_two(bits - e));
    e = exceptional ? 0 : e;

    i32 sums[slices];  // sums of the slices
    for (int p = 0; p < slices; ++p) {
      sums[p] = V::broadcast(std::int32_t{0});
    }
    for (int k = 0; k < a.group_size; k += lanes) {
      i32 x = exceptional ? V::broadcast(std::int32_t{0}) : V::round_i32(V::mul(load(k0 + k), to_fixed));
      std::int32_t packed[slices][4];
      for (int p = slices - 1; p >= 0; --p) {
        V::template pack_bytes<even_odd>(x, packed[p]);
        const i32 low = V::template shift_right_arithmetic<24>(V::template shift_left<24>(x));
        sums[p] = V::add(sums[p], low);
        x = V::template shift_right_arithmetic<8>(V::sub(x, low));
      }
      for (int step = 0; step < 4; ++step) {
        for (int p = 0; p < slices; ++p) {
          *words++ = packed[p][step];
        }
      }
    }
    const auto unit = [e](int p) { return power_of_two(e - bits + 8 * (slices - 1 - p)); };
    for (int p = 0; p < slices; ++p) {
      *scales++ = static_cast<float>(magic) * unit(p);
    }
    if (a.biased) {
      std::int32_t sum = 0;
      for (int p = 0; p < slices; ++p) {
        sum = sum * 256 + V::reduce_add(sums[p]);
      }
      *scales++ = static_cast<float>(sum) * unit(slices - 1);
    } else {
      for (int p = 0; p < slices; ++p) {
        *scales++ = static_cast<float>(magic + a.offset * V::reduce_add(sums[p])) * unit(p);
      }
    }
  }
  return any_exceptional;
}

/// Calls function(load), where load(k) returns the elements k … k+15 of x as float32.
template <class V, class Function>
auto with_loader(const std::byte* x, Dtype dtype, Function function) {
  switch (dtype) {
    case Dtype::float16: return function([x](std::int64_t k) { return V::from_f16(V::load_u16(x + 2 * k, 16)); });
    case Dtype::bfloat16:
      return function([x](std::int64_t k) { return V::as_f32(V::template shift_left<16>(V::load_u16(x + 2 * k, 16))); });
    default:
      GQMM_ASSERT(dtype == Dtype::float32);
      return function([x](std::int64_t k) { return V::as_f32(V::load_words(x + 4 * k, 16)); });
  }
}

template <class V, int slices, bool even_odd>
bool slice(const SliceArguments& a) {
  return with_loader<V>(a.x, a.dtype, [&](auto load) { return slice_row<V, slices, even_odd>(a, load); });
}

}  // namespace
}  // namespace gqmm::cpu
