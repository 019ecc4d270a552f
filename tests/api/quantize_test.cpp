// quantize and dequantize: MLX's bits (literals from mlx 0.32.4; the Python tests compare millions), and what the formats
// promise.
#include "api_test_support.hpp"
#include "float_settings.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace gqmm::test {

using namespace detail;

namespace {

constexpr Dtype float_types[] = {Dtype::float32, Dtype::float16, Dtype::bfloat16};
constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float nan = std::numeric_limits<float>::quiet_NaN();

/// One group of multiples of 1/16, both zeros among them.
const std::vector<float> sixteenths = {-1.875,  -1.875,  1.5,    -0.0,   0.0,    0.5,     1.0625,  -2.375,
                                       -0.0625, -1.8125, -0.5,   2.1875, 0.25,   -2.1875, 0.1875,  -1.875,
                                       1.3125,  2.25,    2.4375, 0.625,  1.875,  -0.6875, -1.8125, 0.0625,
                                       -0.3125, 0.8125,  2.5,    -1.125, 1.8125, -1.8125, -0.75,   1.4375};

std::vector<std::uint32_t> words_of(const array& w) {
  return std::vector<std::uint32_t>(w.data<std::uint32_t>(), w.data<std::uint32_t>() + w.size());
}

std::vector<int> scale_bytes(const array& scales) {
  return std::vector<int>(scales.data<std::uint8_t>(), scales.data<std::uint8_t>() + scales.size());
}

/// A group of `size` weights: `first`, then zeros.
array group_with(float first, int size, Dtype dtype = Dtype::float32) {
  std::vector<float> values(static_cast<std::size_t>(size), 0.0F);
  values.front() = first;
  return floats({1, size}, values, dtype);
}

int scale_byte(float largest, Mode mode, Dtype dtype = Dtype::float32) {
  return scale_bytes(quantize(group_with(largest, 32, dtype), {.mode = mode}).scales).front();
}

struct AffineLiteral {
  int bits;
  std::vector<std::uint32_t> words;
  float scale;
  float bias;
};

TEST(Quantize, AffineGivesMlxsBits) {
  const AffineLiteral literals[] = {
      {1, {0x961f5864}, 0x1.38p+2F, -0x1.3p+1F},
      {2, {0xee2eda9f, 0x7dc6bc81}, -0x1.4p+0F, 0x1.4p+1F},
      {3, {0x7ce9c8bf, 0x9602f3c1, 0x579c1c9e}, -0x1.4p-1F, 0x1.4p+1F},
      {4, {0xf56883ee, 0xe7f71ae8, 0x8ea26014, 0x3ae2c059}, -0x1.4p-2F, 0x1.4p+1F},
      {5, {0x5b081b9c, 0xe14f90fa, 0x0048e3fc, 0x72872846, 0x3d784b81}, -0x1.4p-3F, 0x1.4p+1F},
      {6, {0xa080de38, 0x6de1f926, 0xe1ef1d12, 0x486010cf, 0x05a47f7a, 0x3aadc9b8}, -0x1.4p-4F, 0x1.4p+1F},
      {8,
       {0x8334e5e5, 0xff4b6983, 0x109de286, 0xe579f676, 0x62030d3e, 0x80e2a721, 0xbe005893, 0x38aae224},
       -0x1.38abf8p-6F,
       0x1.4p+1F},
  };
  for (const AffineLiteral& literal : literals) {
    for (const Dtype dtype : {Dtype::float32, Dtype::bfloat16}) {
      const QuantizedWeights q = quantize(floats({1, 32}, sixteenths, dtype), {.group_size = 32, .bits = literal.bits});
      EXPECT_EQ(words_of(q.w), literal.words) << literal.bits << " bits";
      EXPECT_EQ(q.scales.dtype(), dtype);
      // The codes refer to the scale before it is rounded to the type of the weights.
      EXPECT_EQ(values_of(q.scales), values_of(floats({1}, {literal.scale}, dtype))) << literal.bits << " bits";
      EXPECT_EQ(values_of(*q.biases), (std::vector<float>{literal.bias}));
    }
  }
}

TEST(Quantize, FloatingPointModesGiveMlxsBits) {
  for (const Dtype dtype : {Dtype::float32, Dtype::bfloat16}) {
    const array w = floats({1, 32}, sixteenths, dtype);
    const QuantizedWeights mxfp4 = quantize(w, {.mode = Mode::mxfp4});
    EXPECT_EQ(words_of(mxfp4.w), (std::vector<std::uint32_t>{0xe42005ee, 0xe1e16ae0, 0x0eb62665, 0x5be6c639}));
    EXPECT_EQ(scale_bytes(mxfp4.scales), (std::vector<int>{126}));
    EXPECT_FALSE(mxfp4.biases.has_value());
    const QuantizedWeights mxfp8 = quantize(w, {.mode = Mode::mxfp8});
    EXPECT_EQ(words_of(mxfp8.w), (std::vector<std::uint32_t>{0x8074f7f7, 0xfa706800, 0x79e8f6d0, 0xf75cf960, 0x6a7a7972,
                                                             0x50f6eb77, 0xf17a6de2, 0x74ecf676}));
    EXPECT_EQ(scale_bytes(mxfp8.scales), (std::vector<int>{120}));
    const QuantizedWeights nvfp4 = quantize(w, {.mode = Mode::nvfp4});
    EXPECT_EQ(words_of(nvfp4.w), (std::vector<std::uint32_t>{0xf52006ee, 0xe1f17ae0, 0x0eb63775, 0x6ce6d74a}));
    EXPECT_EQ(scale_bytes(nvfp4.scales), (std::vector<int>{45, 45}));
  }
}

TEST(Quantize, AGlobalScaleGivesMlxsBitsAndComesBackAsFloat32) {
  const array global_scale = floats({}, {2.5F});
  const QuantizedWeights q = quantize(floats({1, 32}, sixteenths), {.mode = Mode::nvfp4, .global_scale = global_scale});
  EXPECT_EQ(words_of(q.w), (std::vector<std::uint32_t>{0xf53006ee, 0xe1f17be0, 0x0eb63775, 0x5ce6d749}));
  EXPECT_EQ(scale_bytes(q.scales), (std::vector<int>{125, 126}));
  for (const std::optional<Dtype> dtype : {std::optional<Dtype>(), std::optional(Dtype::bfloat16)}) {
    const array back = dequantize(q, {.dtype = dtype});
    EXPECT_EQ(back.dtype(), Dtype::float32);
    EXPECT_EQ(back.data<float>()[0], -0x1.8c30c4p+0F);
    EXPECT_EQ(back.data<float>()[2], 0x1.8c30c4p+0F);
  }
}

TEST(Quantize, AGlobalScaleThatIsNoLargestMagnitudeIsAnError) {
  const auto quantize_with = [](float largest, const array& w) {
    return quantize(w, {.mode = Mode::nvfp4, .global_scale = floats({}, {largest})});
  };
  const array w = floats({1, 32}, sixteenths);
  for (const auto& [largest, text] : {std::pair{-1.0F, "-1"}, std::pair{NAN, "nan"}, std::pair{infinity, "inf"}}) {
    expect_error(std::string("[quantize] global_scale = ") + text +
                     "; it must be the largest magnitude of w: finite, and positive unless w is all zeros",
                 [&, value = largest] { quantize_with(value, w); });
  }
  expect_error("[quantize] global_scale = 0 but w is not all zeros; it must be the largest magnitude of w",
               [&] { quantize_with(0.0F, w); });
  EXPECT_EQ(words_of(quantize_with(0.0F, group_with(0.0F, 32)).w), std::vector<std::uint32_t>(4, 0));
}

TEST(Quantize, NegativeZeroBecomesZero) {
  for (const Mode mode : {Mode::mxfp4, Mode::nvfp4}) {
    EXPECT_EQ(words_of(quantize(group_with(-0.0F, 32), {.mode = mode}).w), std::vector<std::uint32_t>(4, 0));
  }
}

TEST(Quantize, TiesBetweenFp4ValuesGoTowardsZero) {
  // Scale 1, then the midpoints of E2M1.
  std::vector<float> values = {6, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5, -0.25, -0.75, -1.25, -1.75, -2.5, -3.5, -5, -6};
  values.resize(32, 0.0F);
  const QuantizedWeights q = quantize(floats({1, 32}, values), {.mode = Mode::mxfp4});
  EXPECT_EQ(q.w.data<std::uint32_t>()[0], 0x65432107U);
  EXPECT_EQ(q.w.data<std::uint32_t>()[1], 0xfedcba90U);
}

TEST(Quantize, E8M0ScalesAreTheLeastPowerOfTwoThatHoldsTheGroup) {
  for (const int exponent : {-100, -7, 0, 10, 100}) {
    const float six = std::ldexp(6.0F, exponent);
    EXPECT_EQ(scale_byte(six, Mode::mxfp4), 127 + exponent);
    EXPECT_EQ(scale_byte(std::nextafter(six, infinity), Mode::mxfp4), 128 + exponent);
    EXPECT_EQ(scale_byte(-std::nextafter(six, infinity), Mode::mxfp4), 128 + exponent);
    const float largest = std::ldexp(448.0F, exponent);
    EXPECT_EQ(scale_byte(largest, Mode::mxfp8), 127 + exponent);
    EXPECT_EQ(scale_byte(std::nextafter(largest, infinity), Mode::mxfp8), 128 + exponent);
  }
  EXPECT_EQ(scale_byte(6.03125F, Mode::mxfp4, Dtype::bfloat16), 128);
  EXPECT_EQ(scale_byte(0.0F, Mode::mxfp4), 127);
}

TEST(Quantize, ScalesTooSmallForE8M0AreClampedInsteadOfWrappingRound) {
  for (const int exponent : {-126, -130, -140}) {
    const float largest = std::ldexp(1.0F, exponent);
    EXPECT_EQ(scale_byte(largest, Mode::mxfp4), 0);
    const QuantizedWeights q = quantize(group_with(largest, 32), {.mode = Mode::mxfp4});
    const float back = dequantize(q, {.dtype = Dtype::float32}).data<float>()[0];
    EXPECT_LE(std::fabs(back - largest), 0x1p-129F) << exponent;  // half the least step, 0.5 · 2^-127
  }
  EXPECT_EQ(scale_byte(std::ldexp(1.0F, -119), Mode::mxfp8), 0);
}

TEST(Quantize, NotANumberAndInfinityAreErrorsInFloatingPointModes) {
  const auto weights = [](float value) {
    std::vector<float> values(2 * 3 * 64, 1.0F);
    values[64 * 4 + 37] = value;
    return floats({2, 3, 64}, values);
  };
  expect_error("[quantize] w[1, 1, 37] = inf; mode \"mxfp4\" takes finite values only",
               [&] { quantize(weights(infinity), {.mode = Mode::mxfp4}); });
  expect_error("[quantize] w[1, 1, 37] = -inf; mode \"mxfp8\" takes finite values only",
               [&] { quantize(weights(-infinity), {.mode = Mode::mxfp8}); });
  expect_error("[quantize] w[1, 1, 37] = nan; mode \"nvfp4\" takes finite values only",
               [&] { quantize(weights(nan), {.mode = Mode::nvfp4}); });
}

TEST(Quantize, NotANumberAndInfinityGiveNaNScalesInAffineInTheirGroupOnly) {
  for (const Dtype dtype : float_types) {
    for (const float value : {nan, infinity, -infinity}) {
      std::vector<float> values(96, 1.0F);
      values[40] = value;
      const QuantizedWeights q = quantize(floats({1, 96}, values, dtype), {.group_size = 32});
      const std::vector<float> back = values_of(dequantize(q));
      EXPECT_TRUE(std::isnan(values_of(q.scales)[1]));
      EXPECT_FALSE(std::isnan(values_of(q.scales)[0]) || std::isnan(values_of(q.scales)[2]));
      for (std::size_t i = 0; i < 96; ++i) {
        EXPECT_EQ(std::isnan(back[i]), i / 32 == 1);
      }
    }
  }
}

TEST(Quantize, Nvfp4TakesOddNumbersOfGroups) {
  Generator random(1);
  const array w = random.normal({3, 48});
  const QuantizedWeights q = quantize(w, {.mode = Mode::nvfp4});
  EXPECT_EQ(q.w.shape(), (Shape{3, 6}));
  EXPECT_EQ(q.scales.shape(), (Shape{3, 3}));
}

struct Setting {
  const Format* format;
  int group_size;
};

std::vector<Setting> all_settings() {
  std::vector<Setting> settings;
  for (const Format& format : formats()) {
    for (const int group_size : format.group_sizes) {
      settings.push_back({&format, group_size});
    }
  }
  return settings;
}

TEST(Quantize, ComesBackWithinHalfAStep) {
  Generator random(3);
  for (const auto& [format, group_size] : all_settings()) {
    for (const Dtype dtype : float_types) {
      const array w = random.normal({4, 2 * group_size}, dtype);
      const QuantizedWeights q = quantize(w, {.group_size = group_size, .bits = format->bits, .mode = format->mode});
      const std::vector<float> expected = values_of(w);
      const std::vector<float> back = values_of(dequantize(q));
      // Rounding errors of a type whose values are below 8: scale and bias, product and sum, and the result.
      const float roundings = 4 * 8 * (dtype == Dtype::bfloat16 || !format->has_biases ? 0x1p-8F : 0x1p-11F);
      for (std::size_t i = 0; i < back.size(); ++i) {
        const auto group = static_cast<std::int64_t>(i) / group_size;
        const float scale = std::fabs(load_scale(q.scales.bytes() + group * q.scales.itemsize(), format->scale_encoding, dtype));
        // Affine codes lie one apart; the end that is not represented exactly may be clamped, which costs up to half a step more
        // (one bit: none). E2M1 values lie at most 2 apart, E4M3 values at most 32.
        const auto& type = format->float_code;
        const float step = type ? std::ldexp(1.0F, std::ilogb(largest_value(*type)) - type->mantissa_bits) : 2.0F;
        EXPECT_LE(std::fabs(back[i] - expected[i]), scale * step / 2 + roundings)
            << describe(*format) << ", group " << group_size << ", " << name_of(dtype) << ", weight " << i;
      }
    }
  }
}

TEST(Quantize, WeightsThatAFormatHoldsComeBackExactly) {
  for (const auto& [format, group_size] : all_settings()) {
    // Every finite code in turn, and the largest in every group; scale 1 (affine: 1 from the end 0 or max).
    std::vector<float> values;
    float largest = 0;
    for (unsigned code = 0; code < 1U << format->bits; ++code) {
      largest = std::isfinite(format->value(code)) ? std::max(largest, format->value(code)) : largest;
    }
    for (unsigned code = 0; values.size() < 4U * 256; ++code) {
      const bool is_end = values.size() % static_cast<std::size_t>(group_size) == 0;
      const bool is_other_end = values.size() % static_cast<std::size_t>(group_size) == 1;
      const float value = format->value(code % (1U << format->bits));
      values.push_back(is_end ? largest : is_other_end || !std::isfinite(value) ? 0.0F : value + 0.0F);
    }
    for (const Dtype dtype : float_types) {
      const QuantizedWeights q =
          quantize(floats({4, 256}, values, dtype), {.group_size = group_size, .bits = format->bits, .mode = format->mode});
      EXPECT_EQ(values_of(dequantize(q)), values) << describe(*format);
    }
  }
}

TEST(Quantize, TakesAnyStridesAndAlignment) {
  Generator random(5);
  for (const Dtype dtype : float_types) {
    const array w = random.normal({3, 2, 64}, dtype);
    const auto itemsize = static_cast<std::int64_t>(size_of(dtype));
    // Elements 3 items and one byte apart, backwards along the rows.
    const std::int64_t step = 3 * itemsize + 1;
    const array memory = array::empty({6 * 64 * step}, Dtype::uint8);
    for (std::int64_t i = 0; i < w.size(); ++i) {
      std::memcpy(memory.mutable_bytes() + (w.size() - 1 - i) * step, w.bytes() + i * itemsize,
                  static_cast<std::size_t>(itemsize));
    }
    const array strided = array::borrow(memory.bytes() + (w.size() - 1) * step, w.shape(), dtype,
                                        {-2 * 64 * step, -64 * step, -step}, memory.owner());
    for (const Format& format : formats()) {
      const QuantizeOptions options = {.bits = format.bits, .mode = format.mode};
      const QuantizedWeights expected = quantize(w, options);
      const QuantizedWeights result = quantize(strided, options);
      EXPECT_EQ(memory_of(result.w), memory_of(expected.w));
      EXPECT_EQ(memory_of(result.scales), memory_of(expected.scales));
    }
  }
}

TEST(Dequantize, TakesAnyStridesAndAlignment) {
  for (const bool backwards : {false, true}) {
    Weights weights = affine_weights(6, {2}, 3, 64);
    const std::string expected = memory_of(dequantize(weights));
    for (array* a : {&weights.w, &weights.scales, &*weights.biases}) {
      const std::int64_t step = backwards ? -4 : 4;
      const std::int64_t rows = 6;
      const array memory = array::empty({a->size() * 4 + 1 + rows}, Dtype::uint8);
      std::byte* first = memory.mutable_bytes() + (backwards ? a->size() * 4 - 4 + rows : 1);
      const std::int64_t row_step = backwards ? -a->dim(-1) * 4 - 1 : a->dim(-1) * 4 + 1;
      for (std::int64_t i = 0; i < a->size(); ++i) {
        std::memcpy(first + i / a->dim(-1) * row_step + i % a->dim(-1) * step, a->bytes() + 4 * i, 4);
      }
      *a = array::borrow(first, a->shape(), a->dtype(), {3 * row_step, row_step, step}, memory.owner());
    }
    EXPECT_EQ(memory_of(dequantize(weights)), expected);
  }
}

TEST(Dequantize, AffineRoundsAfterTheProductAndAfterTheSum) {
  // Codes 0 … 7, scale 1.001, bias 3.01e-4 in each type: MLX's values.
  const array w = integers<std::uint32_t>({1, 4}, {0x76543210, 0, 0, 0}, Dtype::uint32);
  const auto third = [&](Dtype scale, Dtype bias, std::optional<Dtype> dtype = {}) {
    const array y = dequantize(
        {.w = w, .scales = floats({1, 1}, {1.001F}, scale), .biases = floats({1, 1}, {3.01e-4F}, bias), .group_size = 32},
        {.dtype = dtype});
    return std::pair(y.dtype(), values_of(y)[3]);
  };
  EXPECT_EQ(third(Dtype::float16, Dtype::float16), std::pair(Dtype::float16, 3.00390625F));
  EXPECT_EQ(third(Dtype::bfloat16, Dtype::bfloat16), std::pair(Dtype::bfloat16, 3.0F));
  EXPECT_EQ(third(Dtype::bfloat16, Dtype::float16), std::pair(Dtype::float32, 3.0003009F));
  EXPECT_EQ(third(Dtype::float32, Dtype::float32), std::pair(Dtype::float32, 3.0033011F));
  EXPECT_EQ(third(Dtype::float32, Dtype::float16, Dtype::float16), std::pair(Dtype::float16, 3.00390625F));
  EXPECT_EQ(third(Dtype::bfloat16, Dtype::bfloat16, Dtype::float32), std::pair(Dtype::float32, 3.0F));
}

TEST(Dequantize, FloatingPointModesGiveBfloat16UnlessToldOtherwise) {
  const array w = integers<std::uint32_t>({1, 4}, {0xfedc3210, 0, 0, 0}, Dtype::uint32);
  const array scales = integers<std::uint8_t>({1, 1}, {128}, Dtype::uint8);
  EXPECT_EQ(dequantize({.w = w, .scales = scales, .mode = Mode::mxfp4}).dtype(), Dtype::bfloat16);
  const array y = dequantize({.w = w, .scales = scales, .mode = Mode::mxfp4}, {.dtype = Dtype::float16});
  EXPECT_EQ(y.dtype(), Dtype::float16);
  const std::vector<float> values = values_of(y);
  EXPECT_EQ(std::vector<float>(values.begin(), values.begin() + 8), (std::vector<float>{0, 1, 2, 3, -4, -6, -8, -12}));
}

TEST(Dequantize, AnE8M0ByteOf255IsInfinity) {
  const array w = integers<std::uint32_t>({1, 4}, {0x00000a20, 0, 0, 0}, Dtype::uint32);
  const std::vector<float> y =
      values_of(dequantize({.w = w, .scales = integers<std::uint8_t>({1, 1}, {255}, Dtype::uint8), .mode = Mode::mxfp4}));
  EXPECT_TRUE(std::isnan(y[0]));
  EXPECT_EQ(y[1], infinity);
  EXPECT_EQ(y[2], -infinity);
}

TEST(Dequantize, TakesOneGlobalScalePerMatrix) {
  Generator random(7);
  Weights weights = random_weights(random, *find_format(Mode::nvfp4, 4), 16, true, {2}, 3, 32);
  const auto with = [&](const array& global_scale) {
    weights.global_scale = global_scale;
    return values_of(dequantize(weights));
  };
  std::vector<float> expected = with(floats({}, {10}));
  const std::vector<float> second = with(floats({1}, {20}));
  std::copy(second.begin() + 96, second.end(), expected.begin() + 96);
  EXPECT_EQ(with(floats({2}, {10, 20})), expected);
}

TEST(Quantize, DoesNotDependOnTheCallersFloatingPointMode) {
  std::vector<float> values(128);
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = std::ldexp(static_cast<float>(i) - 60, -146);  // subnormals
  }
  const array w = floats({1, 128}, values);
  for (const Mode mode : modes()) {
    const QuantizedWeights expected = quantize(w, {.mode = mode});
    const std::string expected_back = memory_of(dequantize(expected));
    const auto [q, back, after] = [&] {
      const CallersSetting caller(flush_to_zero);
      const QuantizedWeights quantized = quantize(w, {.mode = mode});
      return std::tuple(quantized, memory_of(dequantize(quantized)), threads::float_control());
    }();
    EXPECT_EQ(after & ~sticky_flags, flush_to_zero & ~sticky_flags);
    EXPECT_EQ(memory_of(q.w), memory_of(expected.w));
    EXPECT_EQ(memory_of(q.scales), memory_of(expected.scales));
    EXPECT_EQ(back, expected_back);
  }
}

TEST(Quantize, FillsInEverySetting) {
  const array w = Generator(1).normal({2, 64});
  const QuantizedWeights affine = quantize(w);
  EXPECT_EQ(affine.mode, Mode::affine);
  EXPECT_EQ(affine.bits, 4);
  EXPECT_EQ(affine.group_size, 64);
  EXPECT_TRUE(affine.transpose);
  EXPECT_FALSE(affine.global_scale);
  const QuantizedWeights mxfp8 = quantize(w, {.mode = Mode::mxfp8});
  EXPECT_EQ(mxfp8.mode, Mode::mxfp8);
  EXPECT_EQ(mxfp8.bits, 8);
  EXPECT_EQ(mxfp8.group_size, 32);
}

TEST(Quantize, TheGlobalScaleOfTheResultIsACopy) {
  float largest = 2.5F;
  const QuantizedWeights q = quantize(floats({1, 32}, sixteenths),
                                      {.mode = Mode::nvfp4, .global_scale = array::borrow_mut(std::span(&largest, 1), {1})});
  largest = 7.0F;
  ASSERT_TRUE(q.global_scale);
  EXPECT_EQ(values_of(*q.global_scale), std::vector<float>{2.5F});
}

TEST(Dequantize, WeightsWithoutTransposeExpandTheSameRows) {
  Weights weights = affine_weights(6, {2}, 32, 3, false);
  const array rows = dequantize(weights);
  EXPECT_EQ(rows.shape(), (Shape{2, 3, 32}));
  EXPECT_EQ(rows.shape(), weights.shape());
  weights.transpose = true;  // the same arrays, read as (N, K)
  EXPECT_EQ(memory_of(dequantize(weights)), memory_of(rows));
}

}  // namespace
}  // namespace gqmm::test
