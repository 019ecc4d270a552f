#include "api/quantize_group.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace gqmm {
namespace {

float largest_magnitude(std::span<const float> weights) {
  float largest = 0;
  for (const float weight : weights) {
    largest = std::max(largest, std::fabs(weight));
  }
  return largest;
}

/// ⌈log2(value)⌉, exactly.
int ceil_log2(float value) {
  int exponent = 0;
  const float fraction = std::frexp(value, &exponent);  // in [0.5, 1)
  return fraction == 0.5F ? exponent - 1 : exponent;
}

}  // namespace

float round_to(Dtype dtype, float value) {
  switch (dtype) {
    case Dtype::float16: return float_from_float16(float16_from_float(value));
    case Dtype::bfloat16: return float_from_bfloat16(bfloat16_from_float(value));
    default: return value;
  }
}

std::uint8_t e4m3_from_float(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits >> 24) & 0x80U;
  const std::uint32_t magnitude = bits & 0x7fffffffU;
  if (magnitude >= 0x43e00000U) {  // 448
    return static_cast<std::uint8_t>(sign | 0x7eU);
  }
  if (magnitude < 0x3c800000U) {  // below 2^-6, the least normal: adding 2^14 leaves multiples of 2^-9 in the low bits
    const float shifted = std::bit_cast<float>(magnitude) + 0x1p14F;
    return static_cast<std::uint8_t>(sign | (std::bit_cast<std::uint32_t>(shifted) - 0x46800000U));
  }
  const std::uint32_t rounded = magnitude + 0x7ffffU + ((magnitude >> 20) & 1U);
  return static_cast<std::uint8_t>(sign | ((rounded - 0x3c000000U) >> 20));
}

unsigned e2m1_from_float(float value, Dtype dtype) {
  const float magnitude = std::fabs(value);
  if (magnitude <= 8.0F) {
    // Here the distances to both neighbours are exact in every type.
    constexpr float midpoints[] = {0.25F, 0.75F, 1.25F, 1.75F, 2.5F, 3.5F, 5.0F};
    unsigned code = 0;
    for (const float midpoint : midpoints) {
      code += magnitude > midpoint ? 1U : 0U;
    }
    return code != 0 && value < 0 ? code | 8U : code;
  }
  unsigned nearest = 0;
  float least = magnitude;
  for (unsigned code = 1; code < 16; ++code) {
    const float distance = std::fabs(round_to(dtype, value - float_from_e2m1(code)));
    if (distance < least) {
      least = distance;
      nearest = code;
    }
  }
  return nearest;
}

AffineGroup quantize_affine_group(std::span<const float> weights, int bits, std::uint8_t* codes) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  constexpr float least_scale = 1e-7F;
  float low = infinity;
  float high = -infinity;
  bool finite = true;
  for (const float weight : weights) {
    finite = finite && std::isfinite(weight);
    low = std::min(low, weight);
    high = std::max(high, weight);
  }
  if (!finite) {
    std::fill_n(codes, weights.size(), std::uint8_t{0});
    return {std::numeric_limits<float>::quiet_NaN(), 0.0F};
  }
  const auto max_code = static_cast<float>((1 << bits) - 1);
  const float step = std::max((high - low) / max_code, least_scale);
  float scale = step;
  float bias = low;
  if (bits > 1) {
    // The end of larger magnitude is represented exactly: it is the bias, and the scale divides it into whole steps from zero.
    const bool low_end = std::fabs(low) > std::fabs(high);
    const float end = low_end ? low : high;
    scale = low_end ? step : -step;
    bias = 0;
    const float steps = std::rint(end / scale);
    if (steps != 0) {
      scale = end / steps;
      bias = end;
    }
  }
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const float code = std::rint((weights[i] - bias) / scale);
    codes[i] = static_cast<std::uint8_t>(std::clamp(code, 0.0F, max_code));
  }
  return {scale, bias};
}

std::uint8_t quantize_e8m0_group(std::span<const float> weights, const Format& format, Dtype dtype, std::uint8_t* codes) {
  const bool is_fp4 = format.bits == 4;
  const float ratio = round_to(dtype, largest_magnitude(weights) / (is_fp4 ? 6.0F : 448.0F));
  // A ratio that rounds to zero has the exponent 0. Below 2^-127 E8M0 has no scale (MLX lets the byte wrap round to a huge one):
  // the least that it has.
  const int exponent = ratio == 0 ? 0 : std::max(ceil_log2(ratio), -127);
  const float scale = round_to(dtype, std::ldexp(1.0F, exponent));
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const float quotient = round_to(dtype, weights[i] / scale);
    codes[i] = is_fp4 ? static_cast<std::uint8_t>(e2m1_from_float(quotient, dtype)) : e4m3_from_float(quotient);
  }
  return static_cast<std::uint8_t>(exponent + 127);
}

std::uint8_t quantize_e4m3_group(std::span<const float> weights, Dtype dtype, float encode, std::uint8_t* codes) {
  const float ratio = round_to(dtype, largest_magnitude(weights) / 6.0F);
  const std::uint8_t byte = e4m3_from_float(ratio * encode);
  const float scale = float_from_e4m3(byte);
  for (std::size_t i = 0; i < weights.size(); ++i) {
    codes[i] = static_cast<std::uint8_t>(e2m1_from_float(round_to(dtype, weights[i] / scale) * encode, Dtype::float32));
  }
  return byte;
}

}  // namespace gqmm
