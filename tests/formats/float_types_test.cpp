// Every value of the storage types, against the compiler's own half type and against the definitions of the formats.
#include "formats/float_types.hpp"

#include "formats/format.hpp"
#include "formats/small_float.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace gqmm {

using namespace detail;

namespace {

// Independent of float_types.hpp: sign · mantissa · 2^exponent by ldexp.
double value_of_float(unsigned bits, int exponent_bits, int mantissa_bits) {
  const double sign = (bits >> (exponent_bits + mantissa_bits)) != 0 ? -1.0 : 1.0;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const auto exponent = static_cast<int>((bits >> mantissa_bits) & ((1U << exponent_bits) - 1U));
  const auto mantissa = static_cast<int>(bits & ((1U << mantissa_bits) - 1U));
  const int implicit = exponent == 0 ? 0 : 1 << mantissa_bits;
  return sign * std::ldexp(implicit + mantissa, (exponent == 0 ? 1 : exponent) - bias - mantissa_bits);
}

TEST(Float16, EveryValueWidensExactlyAndRoundTrips) {
  for (unsigned bits = 0; bits < 0x10000U; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    const float value = float_from_float16(half);
    if ((bits & 0x7c00U) == 0x7c00U) {
      const bool is_nan = (bits & 0x3ffU) != 0;
      ASSERT_EQ(std::isnan(value), is_nan) << std::hex << bits;
      ASSERT_EQ(std::isinf(value), !is_nan) << std::hex << bits;
      ASSERT_EQ(float16_from_float(value), is_nan ? 0x7e00 : half) << std::hex << bits;
      continue;
    }
    ASSERT_EQ(static_cast<double>(value), value_of_float(bits, 5, 10)) << std::hex << bits;
    ASSERT_EQ(std::signbit(value), bits >= 0x8000U) << std::hex << bits;
    ASSERT_EQ(float16_from_float(value), half) << std::hex << bits;
  }
}

TEST(Bfloat16, EveryValueWidensExactlyAndRoundTrips) {
  for (unsigned bits = 0; bits < 0x10000U; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    const float value = float_from_bfloat16(half);
    if ((bits & 0x7f80U) == 0x7f80U) {
      const bool is_nan = (bits & 0x7fU) != 0;
      ASSERT_EQ(std::isnan(value), is_nan) << std::hex << bits;
      ASSERT_EQ(bfloat16_from_float(value), is_nan ? 0x7fc0 : half) << std::hex << bits;
      continue;
    }
    ASSERT_EQ(static_cast<double>(value), value_of_float(bits, 8, 7)) << std::hex << bits;
    ASSERT_EQ(bfloat16_from_float(value), half) << std::hex << bits;
  }
}

// Between two neighbours a, b of the type: everything below the middle goes to a, above to b, the middle to the even one.
template <class Narrow, class Widen>
void expect_nearest_even(unsigned first, unsigned last, Narrow narrow, Widen widen) {
  for (unsigned bits = first; bits < last; ++bits) {
    const auto low = static_cast<std::uint16_t>(bits);
    const auto high = static_cast<std::uint16_t>(bits + 1);
    const double middle = (static_cast<double>(widen(low)) + static_cast<double>(widen(high))) / 2;
    const auto tie = static_cast<float>(middle);
    ASSERT_EQ(static_cast<double>(tie), middle) << std::hex << bits;
    for (const float sign : {1.0F, -1.0F}) {
      const unsigned sign_bit = sign < 0 ? 0x8000U : 0U;
      ASSERT_EQ(narrow(sign * tie), sign_bit | (bits % 2 == 0 ? low : high)) << std::hex << bits;
      ASSERT_EQ(narrow(sign * std::nextafter(tie, 0.0F)), sign_bit | low) << std::hex << bits;
      ASSERT_EQ(narrow(sign * std::nextafter(tie, std::numeric_limits<float>::infinity())), sign_bit | high) << std::hex << bits;
    }
  }
}

TEST(Float16, RoundsToNearestEvenBetweenEveryTwoNeighbours) {
  expect_nearest_even(0, 0x7bff, float16_from_float, float_from_float16);
}

TEST(Bfloat16, RoundsToNearestEvenBetweenEveryTwoNeighbours) {
  expect_nearest_even(0, 0x7f7f, bfloat16_from_float, float_from_bfloat16);
}

TEST(Float16, ValuesBeyondTheRangeBecomeInfinite) {
  EXPECT_EQ(float16_from_float(65504.0F), 0x7bff);
  EXPECT_EQ(float16_from_float(std::nextafter(65520.0F, 0.0F)), 0x7bff);
  EXPECT_EQ(float16_from_float(65520.0F), 0x7c00);
  EXPECT_EQ(float16_from_float(-65520.0F), 0xfc00);
  EXPECT_EQ(float16_from_float(std::numeric_limits<float>::max()), 0x7c00);
  EXPECT_EQ(bfloat16_from_float(std::numeric_limits<float>::max()), 0x7f80);
}

TEST(Float16, ValuesBelowTheSmallestRoundToZeroWithTheirSign) {
  EXPECT_EQ(float16_from_float(0x1p-25F), 0x0000);
  EXPECT_EQ(float16_from_float(std::nextafter(0x1p-25F, 1.0F)), 0x0001);
  EXPECT_EQ(float16_from_float(-0x1p-25F), 0x8000);
  EXPECT_EQ(float16_from_float(-std::numeric_limits<float>::denorm_min()), 0x8000);
  EXPECT_EQ(float16_from_float(-0.0F), 0x8000);
  EXPECT_EQ(bfloat16_from_float(std::numeric_limits<float>::denorm_min()), 0x0000);
}

#ifdef __FLT16_MANT_DIG__
#if defined(__aarch64__)
using CompilersHalf = __fp16;  // GCC 12 has no other one in C++ there
#else
using CompilersHalf = _Float16;
#endif
TEST(Float16, AgreesWithTheCompilersHalfType) {
  for (unsigned bits = 0; bits < 0x10000U; ++bits) {
    const auto half = std::bit_cast<CompilersHalf>(static_cast<std::uint16_t>(bits));
    const auto expected = static_cast<float>(half);
    const float actual = float_from_float16(static_cast<std::uint16_t>(bits));
    ASSERT_TRUE(std::isnan(expected) ? std::isnan(actual)
                                     : std::bit_cast<std::uint32_t>(actual) == std::bit_cast<std::uint32_t>(expected))
        << std::hex << bits;
  }
  // A prime stride walks 3 million floats over the whole range of exponents and mantissas.
  for (std::uint64_t bits = 0; bits < 0x100000000U; bits += 1429) {
    const auto value = std::bit_cast<float>(static_cast<std::uint32_t>(bits));
    if (!std::isnan(value)) {
      ASSERT_EQ(float16_from_float(value), std::bit_cast<std::uint16_t>(static_cast<CompilersHalf>(value))) << value;
    }
  }
}
#endif

// Those of the formats, OCP's other types, and one of 3 bits.
constexpr SmallFloat small_floats[] = {
    e2m1,
    e4m3,
    {.exponent_bits = 5, .mantissa_bits = 2, .bias = 15, .special = SpecialCodes::infinities},
    {.exponent_bits = 2, .mantissa_bits = 3, .bias = 1, .special = SpecialCodes::none},
    {.exponent_bits = 3, .mantissa_bits = 2, .bias = 3, .special = SpecialCodes::none},
    {.exponent_bits = 2, .mantissa_bits = 0, .bias = 1, .special = SpecialCodes::none},
};

TEST(SmallFloat, EveryCodeHasItsValue) {
  for (const SmallFloat& type : small_floats) {
    SCOPED_TRACE(name_of(type));
    const unsigned sign = 1U << (type.bits() - 1);
    for (unsigned code = 0; code < 2 * sign; ++code) {
      const float value = float_from_small(type, code);
      const unsigned exponent = code % sign >> type.mantissa_bits;
      const bool top_exponent = exponent == (1U << type.exponent_bits) - 1;
      const bool is_infinite = type.special == SpecialCodes::infinities && top_exponent && code % (1U << type.mantissa_bits) == 0;
      const bool is_nan = (type.special == SpecialCodes::infinities && top_exponent && !is_infinite) ||
                          (type.special == SpecialCodes::nan && code % sign == sign - 1);
      if (is_nan) {
        ASSERT_TRUE(std::isnan(value)) << code;
        continue;
      }
      ASSERT_EQ(std::signbit(value), code >= sign) << code;
      if (is_infinite) {
        ASSERT_TRUE(std::isinf(value)) << code;
      } else {
        ASSERT_EQ(static_cast<double>(value), value_of_float(code, type.exponent_bits, type.mantissa_bits)) << code;
      }
    }
  }
  EXPECT_EQ(largest_value(e2m1), 6.0F);
  EXPECT_EQ(largest_value(e4m3), 448.0F);
  EXPECT_EQ(largest_value(small_floats[2]), 57344.0F);
  EXPECT_EQ(largest_value(small_floats[3]), 7.5F);
}

TEST(SmallFloat, HasTheNameOfMlDtypes) {
  EXPECT_EQ(name_of(e2m1), "float4_e2m1fn");
  EXPECT_EQ(name_of(e4m3), "float8_e4m3fn");
  EXPECT_EQ(name_of(small_floats[2]), "float8_e5m2");
}

// Of the two codes around a value the nearer one; of two equally near ones the even one.
TEST(SmallFloat, RoundsToNearestEvenAndSaturates) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  for (const SmallFloat& type : small_floats) {
    SCOPED_TRACE(name_of(type));
    const unsigned sign = 1U << (type.bits() - 1);
    for (unsigned code = 0; code + 1 < type.first_special(); ++code) {
      const float low = float_from_small(type, code);
      const float high = float_from_small(type, code + 1);
      const float middle = (low + high) / 2;
      const unsigned even = code + code % 2;
      ASSERT_EQ(small_from_float(type, low), code);
      ASSERT_EQ(small_from_float(type, std::nextafter(middle, low)), code);
      ASSERT_EQ(small_from_float(type, middle), even);
      ASSERT_EQ(small_from_float(type, std::nextafter(middle, high)), code + 1);
      ASSERT_EQ(small_from_float(type, -middle), sign | even);
    }
    const unsigned largest = type.first_special() - 1;
    for (const float beyond : {largest_value(type), 2 * largest_value(type), infinity}) {
      EXPECT_EQ(small_from_float(type, beyond), largest);
      EXPECT_EQ(small_from_float(type, -beyond), sign | largest);
    }
    EXPECT_EQ(small_from_float(type, std::numeric_limits<float>::quiet_NaN()), largest);
  }
}

TEST(E8M0, EveryByteIsItsPowerOfTwoAnd255IsInfinite) {
  for (unsigned bits = 0; bits < 255; ++bits) {
    ASSERT_EQ(static_cast<double>(float_from_e8m0(static_cast<std::uint8_t>(bits))),
              std::ldexp(1.0, static_cast<int>(bits) - 127))
        << bits;
  }
  EXPECT_EQ(float_from_e8m0(255), std::numeric_limits<float>::infinity());
}

TEST(StoreFloat, EveryNanIsThePositiveQuietNan) {
  for (const std::uint32_t bits : {0x7f800001U, 0x7fc00000U, 0xffc00000U, 0xffffffffU, 0xff800001U}) {
    std::byte memory[4] = {};
    store_float(memory, Dtype::float32, std::bit_cast<float>(bits));
    EXPECT_EQ(load_unaligned<std::uint32_t>(memory), 0x7fc00000U);
    store_float(memory, Dtype::float16, std::bit_cast<float>(bits));
    EXPECT_EQ(load_unaligned<std::uint16_t>(memory), 0x7e00U);
    store_float(memory, Dtype::bfloat16, std::bit_cast<float>(bits));
    EXPECT_EQ(load_unaligned<std::uint16_t>(memory), 0x7fc0U);
  }
}

}  // namespace
}  // namespace gqmm
