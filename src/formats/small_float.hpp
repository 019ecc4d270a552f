// Floating-point types of at most 8 bits. The codes of the microscaling formats and the scales of nvfp4 have such types.
//
//     bit      bits − 1    …                          0        value of a code, where E and M are its exponent and mantissa:
//     E4M3     s eeee mmm      bias  7                         E > 0:  ± 2^(E − bias) · (1 + M / 2^mantissa_bits)
//     E5M2     s eeeee mm      bias 15                         E = 0:  ± 2^(1 − bias) · M / 2^mantissa_bits
//     E2M1     s ee m          bias  1                         special codes: see SpecialCodes
//
// A format names one such type as its `float_code`. The reference, quantize, dequantize and the kernels take everything that they
// know about its codes from that struct. cpu/kernels/scales.hpp has the vector form of the functions below, which must give the
// same bits.
#pragma once

#include "namespaces.hpp"

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace gqmm::detail {

/// Which codes are not finite numbers. They have the largest magnitudes.
enum class SpecialCodes : std::uint8_t {
  none,        ///< all codes are finite, as in OCP's types of 4 and 6 bits
  nan,         ///< the largest magnitude alone is NaN, as in OCP E4M3
  infinities,  ///< the largest exponent means Inf (mantissa 0) or NaN, as in IEEE 754 and OCP E5M2
};

/// The layout of a type: a sign bit, then the exponent, then the mantissa.
struct SmallFloat {
  int exponent_bits;
  int mantissa_bits;
  int bias;
  SpecialCodes special;

  constexpr bool operator==(const SmallFloat&) const = default;

  [[nodiscard]] constexpr int bits() const { return 1 + exponent_bits + mantissa_bits; }
  /// A mask for the bits of a code without its sign.
  [[nodiscard]] constexpr unsigned magnitude_mask() const { return (1U << (bits() - 1)) - 1; }
  /// The smallest magnitude that is not a finite number. It is magnitude_mask() + 1 if all are finite.
  [[nodiscard]] constexpr unsigned first_special() const {
    switch (special) {
      case SpecialCodes::none: break;
      case SpecialCodes::nan: return magnitude_mask();
      case SpecialCodes::infinities: return ((1U << exponent_bits) - 1) << mantissa_bits;
    }
    return magnitude_mask() + 1;
  }
  /// The factor of the conversion to float32. A magnitude that is shifted to the exponent and mantissa bits of a float32 is the
  /// value divided by this factor.
  [[nodiscard]] constexpr float unit() const { return std::bit_cast<float>(static_cast<std::uint32_t>(254 - bias) << 23); }
};

inline constexpr SmallFloat e2m1 = {.exponent_bits = 2, .mantissa_bits = 1, .bias = 1, .special = SpecialCodes::none};
inline constexpr SmallFloat e4m3 = {.exponent_bits = 4, .mantissa_bits = 3, .bias = 7, .special = SpecialCodes::nan};

/// The exact value of a code. NaN has no sign.
constexpr float float_from_small(const SmallFloat& type, unsigned code) {
  const unsigned magnitude = code & type.magnitude_mask();
  const bool negative = (code >> (type.bits() - 1) & 1U) != 0;
  float value = std::bit_cast<float>(magnitude << (23 - type.mantissa_bits)) * type.unit();
  if (magnitude >= type.first_special()) {
    if (type.special != SpecialCodes::infinities || magnitude != type.first_special()) {
      return std::numeric_limits<float>::quiet_NaN();
    }
    value = std::numeric_limits<float>::infinity();
  }
  return negative ? -value : value;
}

/// The largest finite value.
constexpr float largest_value(const SmallFloat& type) { return float_from_small(type, type.first_special() - 1); }

/// Rounds `value` to nearest, ties to even, and returns the code. Values beyond the largest finite one, infinities and NaN become
/// the largest finite value with their sign.
inline std::uint8_t small_from_float(const SmallFloat& type, float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits >> 31) << (type.bits() - 1);
  const std::uint32_t magnitude = bits & 0x7fffffffU;
  if (magnitude >= std::bit_cast<std::uint32_t>(largest_value(type))) {
    return static_cast<std::uint8_t>(sign | (type.first_special() - 1));
  }
  const auto power_of_two = [](int exponent) { return static_cast<std::uint32_t>(127 + exponent) << 23; };
  const int least_exponent = 1 - type.bias;
  if (magnitude < power_of_two(least_exponent)) {
    // The last bit of the sum below is worth the smallest subnormal, so the addition rounds to a multiple of it.
    const std::uint32_t power = power_of_two(least_exponent - type.mantissa_bits + 23);
    const float shifted = std::bit_cast<float>(magnitude) + std::bit_cast<float>(power);
    return static_cast<std::uint8_t>(sign | (std::bit_cast<std::uint32_t>(shifted) - power));
  }
  const int dropped = 23 - type.mantissa_bits;
  const std::uint32_t rounded = magnitude + (1U << (dropped - 1)) - 1 + ((magnitude >> dropped) & 1U);
  return static_cast<std::uint8_t>(sign | ((rounded - power_of_two(-type.bias)) >> dropped));
}

}  // namespace gqmm::detail
