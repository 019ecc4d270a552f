// Scalar conversions between float32 and the types in which floats are stored. A conversion to float32 is exact. A conversion
// from float32 rounds to nearest, ties to even. The kernels have vector forms of these functions, which must give the same bits.
#pragma once

#include "namespaces.hpp"

#include <gqmm/array.hpp>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace gqmm::detail {

inline float float_from_bfloat16(std::uint16_t bits) { return std::bit_cast<float>(std::uint32_t{bits} << 16); }

inline float float_from_float16(std::uint16_t bits) {
  const std::uint32_t sign = std::uint32_t{bits & 0x8000U} << 16;
  const std::uint32_t magnitude = bits & 0x7fffU;
  if (magnitude >= 0x7c00U) {  // Inf, NaN
    return std::bit_cast<float>(sign | 0x7f800000U | (magnitude & 0x3ffU) << 13);
  }
  // The product changes the bias of the exponent from 15 to 127. A subnormal float16 is first read as a subnormal float32, and
  // the product normalises it exactly.
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
  if (magnitude >= 0x477ff000U) {  // a value of 65520 or more rounds to Inf
    return static_cast<std::uint16_t>(sign | 0x7c00U);
  }
  if (magnitude < 0x38800000U) {  // below 2^-14 the sum with 0.5 has the rounded subnormal float16 in its low bits
    const float shifted = std::bit_cast<float>(magnitude) + 0.5F;
    return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(shifted) - 0x3f000000U));
  }
  const std::uint32_t rounded = magnitude + 0xfffU + ((magnitude >> 13) & 1U);
  return static_cast<std::uint16_t>(sign | ((rounded - 0x38000000U) >> 13));
}

/// The value of an OCP E8M0 byte: 2^(bits − 127). The byte 255 is NaN in the standard, but Inf here and in MLX.
inline float float_from_e8m0(std::uint8_t bits) {
  return std::bit_cast<float>(bits == 0 ? 0x00400000U : std::uint32_t{bits} << 23);
}

template <class T>
T load_unaligned(const std::byte* address) {
  T value;
  std::memcpy(&value, address, sizeof(T));
  return value;
}

/// Loads an element of a float16, bfloat16 or float32 array. `address` may have any alignment.
inline float load_float(const std::byte* address, Dtype dtype) {
  switch (dtype) {
    case Dtype::float16: return float_from_float16(load_unaligned<std::uint16_t>(address));
    case Dtype::bfloat16: return float_from_bfloat16(load_unaligned<std::uint16_t>(address));
    default: return load_unaligned<float>(address);
  }
}

/// Rounds `value` to `dtype` and stores it. Every NaN becomes the positive quiet NaN. So results do not depend on how a processor
/// propagates the payloads of NaNs.
inline void store_float(std::byte* address, Dtype dtype, float value) {
  if (dtype == Dtype::float32) {
    const float canonical = std::isnan(value) ? std::numeric_limits<float>::quiet_NaN() : value;
    std::memcpy(address, &canonical, sizeof canonical);
    return;
  }
  const std::uint16_t bits = dtype == Dtype::float16 ? float16_from_float(value) : bfloat16_from_float(value);
  std::memcpy(address, &bits, sizeof bits);
}

}  // namespace gqmm::detail
