// What follows from the list of formats: modes, defaults, texts, and how kernels turn codes into floats.
#include "cpu/kernels/float_strip.hpp"
#include "cpu/kernels/scales.hpp"
#include "cpu/simd/scalar.hpp"
#include "formats/registry.hpp"
#include "formats/texts.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <set>
#include <string>
#include <tuple>
#include <utility>

namespace gqmm {

using namespace detail;

namespace {

/// Types of the OCP Microscaling specification 1.0 that no format has.
namespace ocp {
constexpr SmallFloat e5m2 = {.exponent_bits = 5, .mantissa_bits = 2, .bias = 15, .special = SpecialCodes::infinities};
constexpr SmallFloat e2m3 = {.exponent_bits = 2, .mantissa_bits = 3, .bias = 1, .special = SpecialCodes::none};
constexpr SmallFloat e3m2 = {.exponent_bits = 3, .mantissa_bits = 2, .bias = 3, .special = SpecialCodes::none};
}  // namespace ocp

TEST(Modes, AreEnumeratedWithNamesThatLeadBackToThem) {
  ASSERT_FALSE(modes().empty());
  for (std::size_t i = 0; i < modes().size(); ++i) {
    const Mode mode = modes()[i];
    EXPECT_EQ(static_cast<std::size_t>(mode), i);
    EXPECT_EQ(find_mode(name_of(mode)), mode);
    EXPECT_EQ(mode_from_name(name_of(mode), "test"), mode);
    EXPECT_EQ(default_format(mode).mode, mode);
  }
  EXPECT_EQ(find_mode("q4_0"), std::nullopt);
}

TEST(Modes, OfMlxHaveMlxsDefaults) {
  for (const auto& [mode, bits, group_size] :
       {std::tuple(Mode::affine, 4, 64), {Mode::mxfp4, 4, 32}, {Mode::mxfp8, 8, 32}, {Mode::nvfp4, 4, 16}}) {
    const QuantizationSettings settings = resolve_settings("test", mode, nullptr, nullptr);
    EXPECT_EQ(settings.format->bits, bits) << name_of(mode);
    EXPECT_EQ(settings.group_size, group_size) << name_of(mode);
  }
}

TEST(Formats, DifferInModeOrBits) {
  std::set<std::pair<Mode, int>> seen;
  for (const Format& format : formats()) {
    EXPECT_TRUE(seen.emplace(format.mode, format.bits).second) << describe(format);
    EXPECT_EQ(find_format(format.mode, format.bits), &format);
  }
}

TEST(Formats, HaveIntegerFormsThatAreTheirValues) {
  for (const Format& format : formats()) {
    const IntegerForm& integer = format.integer;
    for (unsigned code = 0; integer.exists && code < 1U << format.bits; ++code) {
      const int u = integer.has_table ? integer.table[code] : static_cast<int>(code);
      EXPECT_LE(u, integer.max_u);
      EXPECT_EQ(integer.unit * static_cast<float>(u - integer.offset), format.value(code)) << describe(format) << ", " << code;
    }
  }
}

TEST(Texts, NameEveryModeWithItsBitsAndGroupSizes) {
  for (const Format& format : formats()) {
    const std::string mode(format.mode_name);
    EXPECT_NE(list_of_modes().find(mode), std::string::npos) << list_of_modes();
    EXPECT_NE(list_of_bits().find(mode), std::string::npos) << list_of_bits();
    EXPECT_NE(list_of_bits().find(std::to_string(format.bits)), std::string::npos) << list_of_bits();
    EXPECT_NE(list_of_group_sizes().find(mode), std::string::npos) << list_of_group_sizes();
    EXPECT_EQ(list_of_scale_types().find(mode) != std::string::npos, !format.has_biases) << list_of_scale_types();
    EXPECT_EQ(list_of_modes_with_global_scale().find(mode) != std::string::npos, format.has_global_scale);
  }
}

TEST(Texts, ReadAsPartsOfASentence) {
  EXPECT_TRUE(list_of_modes().starts_with("affine, ")) << list_of_modes();
  EXPECT_NE(list_of_modes().find(" or "), std::string::npos) << list_of_modes();
  EXPECT_TRUE(list_of_bits().starts_with("1, 2, 3, 4 (default), 5, 6 or 8 for affine, 4 for mxfp4 and nvfp4")) << list_of_bits();
  EXPECT_TRUE(list_of_group_sizes().starts_with("32, 64 (default) or 128 for affine, 32 for mxfp4")) << list_of_group_sizes();
  EXPECT_EQ(text_without_global_scale(Mode::affine), "mode \"affine\" has none; only \"nvfp4\" takes it");
}

using V = cpu::Scalar;

float first_lane(V::f32 vector) {
  float values[cpu::lanes];
  V::store(values, vector);
  return values[0];
}

void expect_same(float actual, float expected, unsigned code) {
  if (std::isnan(expected)) {
    EXPECT_TRUE(std::isnan(actual)) << code;
  } else {
    EXPECT_EQ(std::bit_cast<std::uint32_t>(actual), std::bit_cast<std::uint32_t>(expected)) << code;
  }
}

template <SmallFloat type>
void expect_that_kernels_widen_every_code() {
  SCOPED_TRACE(name_of(type));
  for (unsigned code = 0; code < 1U << type.bits(); ++code) {
    const auto lanes = V::broadcast(static_cast<std::int32_t>(code));
    expect_same(first_lane(cpu::from_small_float<V, type>(lanes)), float_from_small(type, code), code);
  }
}

TEST(SmallFloat, KernelsWidenEveryCode) {
  expect_that_kernels_widen_every_code<e2m1>();
  expect_that_kernels_widen_every_code<e4m3>();
  expect_that_kernels_widen_every_code<ocp::e5m2>();
  expect_that_kernels_widen_every_code<ocp::e2m3>();
  expect_that_kernels_widen_every_code<ocp::e3m2>();
}

template <SmallFloat type>
void expect_that_strips_tell_special_codes() {
  SCOPED_TRACE(name_of(type));
  for (unsigned code = 0; code < 256; ++code) {
    for (int byte = 0; byte < 4; ++byte) {
      // The other bytes are ordinary codes of many bits.
      const std::uint32_t word = (0x7b7b7b7bU & ~(0xffU << 8 * byte)) | code << 8 * byte;
      const auto words = V::broadcast(static_cast<std::int32_t>(word));
      const float expected = float_from_small(type, code);
      const bool special = cpu::any_special<V>(cpu::special_codes<V, type>(words));
      EXPECT_EQ(special, !std::isfinite(expected)) << code << ", byte " << byte;
      expect_same(first_lane(cpu::small_float_part<V, type, 0>(V::broadcast(static_cast<std::int32_t>(code)))), expected, code);
    }
    if (std::isfinite(float_from_small(type, code))) {
      const auto words = V::broadcast(static_cast<std::int32_t>(code | code << 24));
      expect_same(first_lane(cpu::value_over_unit<V, type, 0>(words)) * type.unit(), float_from_small(type, code), code);
      expect_same(first_lane(cpu::value_over_unit<V, type, 3>(words)) * type.unit(), float_from_small(type, code), code);
    }
  }
}

TEST(SmallFloat, StripsTellSpecialCodesOfAByteFromOrdinaryOnes) {
  expect_that_strips_tell_special_codes<e4m3>();
  expect_that_strips_tell_special_codes<ocp::e5m2>();
}

}  // namespace
}  // namespace gqmm
