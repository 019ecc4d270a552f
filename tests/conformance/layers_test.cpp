// Norms and rope keep their bounds, and a row has the same bits in any batch, on every instruction set and with any threads.
#include "conformance/support/layer_arrays.hpp"

#include <gqmm/gqmm.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <vector>

namespace gqmm::conformance {

using namespace detail;

namespace {

int sweep() { return quick() ? 60 : 400; }

struct NormCall {
  array x;
  std::optional<array> weight;
  float eps = 1e-6F;

  explicit NormCall(std::uint64_t seed) {
    Random random(seed);
    constexpr std::int64_t widths[] = {1, 7, 16, 33, 64, 128, 200, 2048};
    const std::int64_t D = random.one_of(widths);
    x = random_array({random.integer(1, 3), random.integer(1, 40), D}, random.one_of(compute_types), random);
    if (random.chance(0.8)) {
      weight = random_array({D}, random.chance(0.8) ? x.dtype() : random.one_of(compute_types), random);
    }
    eps = random.chance(0.2) ? 0.0F : 1e-6F;
  }
  [[nodiscard]] array run(Stream stream = {}) const { return rms_norm(x, weight, eps, {.stream = stream}); }
};

TEST(RmsNorm, KeepsItsErrorBound) {
  double worst = 0;
  for (int i = 0; i < sweep(); ++i) {
    SCOPED_TRACE(i);
    const NormCall call(static_cast<std::uint64_t>(31000 + i));
    const array y = call.run();
    const std::int64_t T = call.x.dim(1);
    const std::int64_t D = call.x.dim(2);
    for (std::int64_t row = 0; row < call.x.dim(0) * T; ++row) {
      double squares = 0;
      for (std::int64_t d = 0; d < D; ++d) {
        squares += std::pow(element_at(call.x, {row / T, row % T, d}), 2);
      }
      for (std::int64_t d = 0; d < D; ++d) {
        const double weight = call.weight ? element_at(*call.weight, {d}) : 1;
        const double expected =
            element_at(call.x, {row / T, row % T, d}) / std::sqrt(squares / static_cast<double>(D) + call.eps) * weight;
        const double roundings = static_cast<double>(D) / 32 + 8;
        const double bound = (rounding_of(y.dtype()) + roundings * u) * std::fabs(expected) + smallest_of(y.dtype());
        const double error = std::fabs(element(y, row * D + d) - expected);
        ASSERT_LE(error, bound) << row << ' ' << d;
        worst = std::max(worst, error / bound);
      }
    }
  }
  EXPECT_GT(worst, 0.3) << "the bound is much too wide";
}

TEST(RmsNorm, HasTheSameBitsEverywhere) {
  for (int i = 0; i < sweep() / 4; ++i) {
    SCOPED_TRACE(i);
    const NormCall call(static_cast<std::uint64_t>(32000 + i));
    const array expected = call.run();
    with_all_sets_and_threads([&](Stream stream) { EXPECT_TRUE(same_bits(expected, call.run(stream))); });
    NormCall last = call;  // one row alone
    const Strides& strides = call.x.strides();
    const std::int64_t b = call.x.dim(0) - 1;
    const std::int64_t t = call.x.dim(1) - 1;
    last.x = array::borrow(call.x.bytes() + b * strides[0] + t * strides[1], {1, 1, call.x.dim(2)}, call.x.dtype(),
                           call.x.strides(), call.x.owner());
    const array alone = last.run();
    EXPECT_EQ(std::memcmp(alone.bytes(), expected.bytes() + (expected.nbytes() - alone.nbytes()), alone.nbytes()), 0);
  }
}

struct LayerNormCall {
  array x;
  std::optional<array> weight;
  std::optional<array> bias;
  float eps = 1e-5F;

  explicit LayerNormCall(std::uint64_t seed) {
    Random random(seed);
    constexpr std::int64_t widths[] = {1, 7, 16, 33, 64, 128, 200, 2048};
    constexpr double centers[] = {0, 0, 3, -100};
    const std::int64_t D = random.one_of(widths);
    x = random_array({random.integer(1, 3), random.integer(1, 40), D}, random.one_of(compute_types), random,
                     random.one_of(centers));
    for (std::optional<array>* vector : {&weight, &bias}) {
      if (random.chance(0.7)) {
        *vector = random_array({D}, random.chance(0.8) ? x.dtype() : random.one_of(compute_types), random);
      }
    }
  }
  [[nodiscard]] array run(Stream stream = {}) const { return layer_norm(x, weight, bias, eps, {.stream = stream}); }
};

TEST(LayerNorm, KeepsItsErrorBound) {
  double worst = 0;
  for (int i = 0; i < sweep(); ++i) {
    SCOPED_TRACE(i);
    const LayerNormCall call(static_cast<std::uint64_t>(33000 + i));
    const array y = call.run();
    const std::int64_t T = call.x.dim(1);
    const std::int64_t D = call.x.dim(2);
    const double roundings = std::ceil(static_cast<double>(D) / 16);
    for (std::int64_t row = 0; row < call.x.dim(0) * T; ++row) {
      const auto x = [&](std::int64_t d) { return element_at(call.x, {row / T, row % T, d}); };
      double sum = 0;
      double magnitudes = 0;
      for (std::int64_t d = 0; d < D; ++d) {
        sum += x(d);
        magnitudes += std::fabs(x(d));
      }
      const double mean = sum / static_cast<double>(D);
      double squares = 0;
      for (std::int64_t d = 0; d < D; ++d) {
        squares += (x(d) - mean) * (x(d) - mean);
      }
      const double factor = 1 / std::sqrt(squares / static_cast<double>(D) + static_cast<double>(call.eps));
      const double error_of_mean = (roundings + 4) * u * magnitudes / static_cast<double>(D);
      for (std::int64_t d = 0; d < D; ++d) {
        const double weight = call.weight ? element_at(*call.weight, {d}) : 1;
        const double bias = call.bias ? element_at(*call.bias, {d}) : 0;
        const double expected = (x(d) - mean) * factor * weight + bias;
        const double of_difference = (roundings / 2 + 9) * u + factor * factor * error_of_mean * error_of_mean / 2;
        const double bound = (rounding_of(y.dtype()) + u) * std::fabs(expected) +
                             std::fabs(weight) * factor * (error_of_mean + std::fabs(x(d) - mean) * of_difference) +
                             smallest_of(y.dtype());
        const double error = std::fabs(element(y, row * D + d) - expected);
        ASSERT_LE(error, bound) << row << ' ' << d;
        worst = std::max(worst, error / bound);
      }
    }
  }
  EXPECT_GT(worst, 0.3) << "the bound is much too wide";
}

TEST(LayerNorm, HasTheSameBitsEverywhere) {
  for (int i = 0; i < sweep() / 4; ++i) {
    SCOPED_TRACE(i);
    const LayerNormCall call(static_cast<std::uint64_t>(34000 + i));
    const array expected = call.run();
    with_all_sets_and_threads([&](Stream stream) { EXPECT_TRUE(same_bits(expected, call.run(stream))); });
    LayerNormCall last = call;  // one row alone
    const Strides& strides = call.x.strides();
    const std::int64_t b = call.x.dim(0) - 1;
    const std::int64_t t = call.x.dim(1) - 1;
    last.x = array::borrow(call.x.bytes() + b * strides[0] + t * strides[1], {1, 1, call.x.dim(2)}, call.x.dtype(),
                           call.x.strides(), call.x.owner());
    const array alone = last.run();
    EXPECT_EQ(std::memcmp(alone.bytes(), expected.bytes() + (expected.nbytes() - alone.nbytes()), alone.nbytes()), 0);
  }
}

TEST(LayerNorm, KeepsSpecialValuesInTheirRow) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  for (const std::int64_t D : {1, 5, 16, 37}) {
    for (const float special : {infinity, -infinity, std::numeric_limits<float>::quiet_NaN()}) {
      array x = array::empty({3, D}, Dtype::float32);
      for (std::int64_t i = 0; i < x.size(); ++i) {
        x.mutable_data<float>()[i] = static_cast<float>(i % 7);
      }
      x.mutable_data<float>()[D + D / 2] = special;
      const array y = layer_norm(x, std::nullopt, std::nullopt, 1e-5F);
      for (std::int64_t i = 0; i < y.size(); ++i) {
        EXPECT_EQ(std::isnan(y.data<float>()[i]), i / D == 1) << D << ' ' << i;
      }
    }
  }
  const std::vector<float> seven = {7};
  const std::vector<float> bias = {-2};
  const array y = layer_norm(array::borrow(seven, {1, 1}), std::nullopt, array::borrow(bias, {1}), 1e-5F);
  EXPECT_EQ(y.data<float>()[0], -2);  // a single element is its own mean
  EXPECT_EQ(layer_norm(array::empty({3, 0}, Dtype::float16), std::nullopt, std::nullopt, 1e-5F).shape(), (Shape{3, 0}));
}

struct RopeCall {
  array x;
  int dims = 0;
  RopeOptions options;

  explicit RopeCall(std::uint64_t seed) {
    Random random(seed);
    constexpr std::int64_t widths[] = {2, 6, 16, 64, 80, 128};
    constexpr float bases[] = {10000, 1e6F, 37.5F};
    const std::int64_t D = random.one_of(widths);
    x = random_array({random.integer(1, 3), random.integer(1, 4), random.integer(1, 20), D}, random.one_of(compute_types),
                     random);
    dims = random.chance(0.7) ? static_cast<int>(D) : static_cast<int>(2 * random.integer(1, D / 2));
    options.traditional = random.chance(0.5);
    options.scale = random.chance(0.5) ? 1.0F : 0.25F;
    if (random.chance(0.7)) {
      options.base = random.one_of(bases);
    } else {
      array freqs = array::empty({dims / 2}, Dtype::float32);
      for (std::int64_t i = 0; i < freqs.size(); ++i) {
        freqs.mutable_data<float>()[i] = static_cast<float>(std::exp2(random.uniform(0, 12)));
      }
      options.freqs = freqs;
    }
    if (random.chance(0.5)) {
      options.offset = random.integer(0, 100000);
    } else {
      array offset = array::empty({x.dim(0)}, Dtype::int32);
      for (std::int64_t i = 0; i < offset.size(); ++i) {
        offset.mutable_data<std::int32_t>()[i] = static_cast<std::int32_t>(random.integer(-50, 5000));
      }
      options.offset = offset;
    }
  }
  [[nodiscard]] array run(Stream stream = {}) const {
    RopeOptions with_stream = options;
    with_stream.stream = stream;
    return rope(x, dims, with_stream);
  }
  [[nodiscard]] double angle(std::int64_t b, std::int64_t t, std::int64_t pair) const {
    const auto* number = std::get_if<std::int64_t>(&options.offset);
    const std::int64_t offset = number != nullptr ? *number : std::get<array>(options.offset).data<std::int32_t>()[b];
    const double frequency = options.base ? std::pow(static_cast<double>(*options.base), -2.0 * static_cast<double>(pair) / dims)
                                          : 1.0 / static_cast<double>(options.freqs->data<float>()[pair]);
    return static_cast<double>(offset + t) * static_cast<double>(options.scale) * frequency;
  }
};

TEST(Rope, KeepsItsErrorBound) {
  double worst = 0;
  for (int i = 0; i < sweep(); ++i) {
    SCOPED_TRACE(i);
    const RopeCall call(static_cast<std::uint64_t>(41000 + i));
    const array y = call.run();
    const Shape& shape = call.x.shape();
    for (std::int64_t at = 0; at < y.size(); ++at) {
      const std::int64_t d = at % shape[3];
      const std::int64_t t = at / shape[3] % shape[2];
      const std::int64_t h = at / shape[3] / shape[2] % shape[1];
      const std::int64_t b = at / shape[3] / shape[2] / shape[1];
      const auto x = [&](std::int64_t k) { return element_at(call.x, {b, h, t, k}); };
      double expected = x(d);
      double size = 0;
      if (d < call.dims) {
        const std::int64_t half = call.dims / 2;
        const std::int64_t pair = call.options.traditional ? d / 2 : d % half;
        const bool second = call.options.traditional ? d % 2 == 1 : d >= half;
        const double a = x(call.options.traditional ? 2 * pair : pair);
        const double c = x(call.options.traditional ? 2 * pair + 1 : pair + half);
        const double angle = call.angle(b, t, pair);
        const double first_part = second ? c * std::cos(angle) : a * std::cos(angle);
        const double second_part = second ? a * std::sin(angle) : -c * std::sin(angle);
        expected = first_part + second_part;
        // The angle itself has an error of some 2^−50 of its size.
        size = std::fabs(first_part) + std::fabs(second_part) + (std::fabs(a) + std::fabs(c)) * std::fabs(angle) * 0x1p-26;
      }
      const double bound = rounding_of(y.dtype()) * std::fabs(expected) + 3 * u * size + smallest_of(y.dtype());
      const double error = std::fabs(element(y, at) - expected);
      ASSERT_LE(error, bound) << "[" << b << ", " << h << ", " << t << ", " << d << "]";
      worst = std::max(worst, error / bound);
    }
  }
  EXPECT_GT(worst, 0.3) << "the bound is much too wide";
}

TEST(Rope, HasTheSameBitsEverywhere) {
  for (int i = 0; i < sweep() / 4; ++i) {
    SCOPED_TRACE(i);
    const RopeCall call(static_cast<std::uint64_t>(42000 + i));
    const array expected = call.run();
    with_all_sets_and_threads([&](Stream stream) { EXPECT_TRUE(same_bits(expected, call.run(stream))); });
    // The last row of the first batch element alone, at its own position.
    RopeCall last = call;
    const std::int64_t t = call.x.dim(2) - 1;
    last.x = array::borrow(call.x.bytes() + t * call.x.strides()[2], {1, call.x.dim(1), 1, call.x.dim(3)}, call.x.dtype(),
                           call.x.strides(), call.x.owner());
    const auto* number = std::get_if<std::int64_t>(&call.options.offset);
    last.options.offset = (number != nullptr ? *number : std::get<array>(call.options.offset).data<std::int32_t>()[0]) + t;
    const array alone = last.run();
    for (std::int64_t h = 0; h < call.x.dim(1); ++h) {
      for (std::int64_t d = 0; d < call.x.dim(3); ++d) {
        const std::int64_t at = (h * call.x.dim(2) + t) * call.x.dim(3) + d;
        ASSERT_EQ(element(alone, h * call.x.dim(3) + d), element(expected, at));
      }
    }
  }
}

}  // namespace
}  // namespace gqmm::conformance
