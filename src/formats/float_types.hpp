// Scalar conversions of the storage types to and from float32. Every conversion to float32 is exact; those from float32 round
// to nearest, ties to even. Kernels have vector forms of the same functions; these are the truth.
#pragma once

#include <gqmm/array.hpp>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace gqmm {

inline float float_from_bfloat16(std::uint16_t bits) { return std::bit_cast<float>(std::uint32_t{bits} << 16); }

inline float float_from_float16(std::uint16_t bits) {
  const std::uint32_t sign = std::uint32_t{bits & 0x8000U} << 16;
  const std::uint32_t magnitude = bits & 0x7fffU;
  if (magnitude >= 0x7c00U) {  // Inf, NaN
    return std::bit_cast<float>(sign | 0x7f800000U | (magnitude & 0x3ffU) << 13);
  }
  // The exponent bias moves from 15 to 127; a subnormal half becomes a subnormal float, which the product normalises exactly.
  const float scaled = std::bit_cast<float>(magnitude << 13) * 0x1p112F;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(scaled) | sign);
}

inline std::uint16_t bfloat16_from_float(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (std::isnan(value)) {
    return 0x7fc0;
  }
  return static_cast<std::uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}

inline std::uint16_t float16_from_float(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000U;
  const std::uint32_t magnitude = bits & 0x7fffffffU;
  if (magnitude > 0x7f800000U) {
    return 0x7e00;
  }
  if (magnitude >= 0x477ff000U) {  // 65520 and above round to Inf
    return static_cast<std::uint16_t>(sign | 0x7c00U);
  }
  if (magnitude < 0x38800000U) {  // below 2^-14: adding 0.5 leaves the subnormal half in the low bits, rounded by the FPU
    const float shifted = std::bit_cast<float>(magnitude) + 0.5F;
    return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(shifted) - 0x3f000000U));
  }
  const std::uint32_t rounded = magnitude + 0xfffU + ((magnitude >> 13) & 1U);
  return static_cast<std::uint16_t>(sign | ((rounded - 0x38000000U) >> 13));
}

/// OCP E4M3 (no infinities; 0x7f and 0xff are NaN).
inline float float_from_e4m3(std::uint8_t bits) {
  const std::uint32_t magnitude = bits & 0x7fU;
  if (magnitude == 0x7fU) {
    return std::numeric_limits<float>::quiet_NaN();
  }
  const float value = std::bit_cast<float>(magnitude << 20) * 0x1p120F;
  return (bits & 0x80U) != 0 ? -value : value;
}

/// OCP E8M0: 2^(bits − 127), except that 255 (NaN in the standard) is Inf, as in MLX.
inline float float_from_e8m0(std::uint8_t bits) {
  return std::bit_cast<float>(bits == 0 ? 0x00400000U : std::uint32_t{bits} << 23);
}

/// OCP E2M1: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives.
inline float float_from_e2m1(unsigned code) {
  constexpr float magnitudes[8] = {0.0F, 0.5F, 1.0F, 1.5F, 2.0F, 3.0F, 4.0F, 6.0F};
  const float value = magnitudes[code & 7U];
  return (code & 8U) != 0 ? -value : value;
}

template <class T>
T load_unaligned(const std::byte* address) {
  T value;
  std::memcpy(&value, address, sizeof(T));
  return value;
}

/// The element of a float16, bfloat16 or float32 array at `address`, which may have any alignment.
inline float load_float(const std::byte* address, Dtype dtype) {
  switch (dtype) {
    case Dtype::float16: return float_from_float16(load_unaligned<std::uint16_t>(address));
    case Dtype::bfloat16: return float_from_bfloat16(load_unaligned<std::uint16_t>(address));
    default: return load_unaligned<float>(address);
  }
}

/// Rounds `value` to `dtype` and stores it. Every NaN becomes the positive quiet NaN, so that results do not depend on how a
/// machine propagates NaN payloads.
inline void store_float(std::byte* address, Dtype dtype, float value) {
  if (dtype == Dtype::float32) {
    const float canonical = std::isnan(value) ? std::numeric_limits<float>::quiet_NaN() : value;
    std::memcpy(address, &canonical, sizeof canonical);
    return;
  }
  const std::uint16_t bits = dtype == Dtype::float16 ? float16_from_float(value) : bfloat16_from_float(value);
  std::memcpy(address, &bits, sizeof bits);
}

}  // namespace gqmm
