#include "weights/quantize_group.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace gqmm::detail {
namespace {

float largest_magnitude(std::span<const float> weights) {
  float largest = 0;
  for (const float weight : weights) {
    largest = std::max(largest, std::fabs(weight));
  }
  return largest;
}

/// Returns ⌈log2(value)⌉, exactly.
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

unsigned e2m1_from_float(float value, Dtype dtype) {
  const float magnitude = std::fabs(value);
  if (magnitude <= 8.0F) {
    // In this range the distances to both neighbours are exact in every type.
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
    const float distance = std::fabs(round_to(dtype, value - float_from_small(e2m1, code)));
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
    // The end of the range with the larger magnitude is represented exactly: it is the bias. The scale divides it into whole
    // steps from zero.
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

std::uint8_t code_from_float(const SmallFloat& code, float value, Dtype dtype) {
  return code == e2m1 ? static_cast<std::uint8_t>(e2m1_from_float(value, dtype)) : small_from_float(code, value);
}

std::uint8_t quantize_e8m0_group(std::span<const float> weights, const SmallFloat& code, Dtype dtype, std::uint8_t* codes) {
  const float ratio = round_to(dtype, largest_magnitude(weights) / largest_value(code));
  // A ratio that rounds to zero has the exponent 0. E8M0 has no scale below 2^-127, so smaller ones become the smallest scale.
  // (MLX lets the byte wrap round to a huge scale.)
  const int exponent = ratio == 0 ? 0 : std::max(ceil_log2(ratio), -127);
  const float scale = round_to(dtype, std::ldexp(1.0F, exponent));
  for (std::size_t i = 0; i < weights.size(); ++i) {
    codes[i] = code_from_float(code, round_to(dtype, weights[i] / scale), dtype);
  }
  return static_cast<std::uint8_t>(exponent + 127);
}

std::uint8_t quantize_e4m3_group(std::span<const float> weights, const SmallFloat& code, Dtype dtype, float encode,
                                 std::uint8_t* codes) {
  const float ratio = round_to(dtype, largest_magnitude(weights) / largest_value(code));
  const std::uint8_t byte = small_from_float(e4m3, ratio * encode);
  const float scale = float_from_small(e4m3, byte);
  for (std::size_t i = 0; i < weights.size(); ++i) {
    codes[i] = code_from_float(code, round_to(dtype, weights[i] / scale) * encode, Dtype::float32);
  }
  return byte;
}

}  // namespace gqmm::detail
