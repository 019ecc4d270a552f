// QuantizedWeights: what the arrays and settings say together.
#include "api_test_support.hpp"

namespace gqmm::test {

using namespace detail;

namespace {

TEST(QuantizedWeights, KnowTheShapeThatTheyStandFor) {
  for (const Format& format : formats()) {
    Generator random(1);
    const std::int64_t along = 2 * std::int64_t{format.default_group_size};
    Weights rows_along_k = random_weights(random, format, format.default_group_size, true, {2, 3}, 5, along);
    EXPECT_EQ(rows_along_k.shape(), (Shape{2, 3, 5, along})) << describe(format);
    rows_along_k.bits.reset();
    rows_along_k.group_size.reset();
    if (format.mode != Mode::affine || format.bits == 4) {
      EXPECT_EQ(rows_along_k.shape(), (Shape{2, 3, 5, along})) << "defaults of " << describe(format);
    }
    const Weights rows_along_n = random_weights(random, format, format.default_group_size, false, {}, along, 5);
    EXPECT_EQ(rows_along_n.shape(), (Shape{5, along})) << describe(format);
  }
}

TEST(QuantizedWeights, CountTheBytesOfTheirArrays) {
  Generator random(1);
  const Weights affine = affine_weights(1, {3}, 5, 64);
  EXPECT_EQ(affine.nbytes(), 3U * 5 * (32 + 2 * 8));
  Weights nvfp4 = random_weights(random, *find_format(Mode::nvfp4, 4), 16, true, {3}, 5, 64);
  nvfp4.global_scale = random.normal({3});
  EXPECT_EQ(nvfp4.nbytes(), 3U * 5 * (32 + 4) + 12);
}

TEST(QuantizedWeights, SayWhatDoesNotFit) {
  Weights weights = affine_weights(1, {3}, 5, 64);
  const auto expect = [&](const std::string& message) { expect_error(message, [&] { return weights.shape(); }); };
  weights.group_size = 64;
  expect(
      "[QuantizedWeights] scales has shape (3, 5, 2) but w of shape (3, 5, 8) with bits = 4 and group_size = 64 needs (3, 5, 1); "
      "group_size = 32 would fit");
  weights.bits = 7;
  expect("[QuantizedWeights] bits = 7 is not available in mode \"affine\"; use one of 1, 2, 3, 4, 5, 6, 8");
  weights = affine_weights(1, {3}, 5, 64);
  weights.scales = array();
  expect("[QuantizedWeights] scales is missing; pass the second array that quantize returns");
  weights = affine_weights(1, {3}, 5, 64);
  weights.global_scale = floats({}, {1});
  expect("[QuantizedWeights] global_scale is given but mode \"affine\" has none; only \"nvfp4\" takes it");
}

TEST(QuantizedWeights, GoWhereverPackedOnesGo) {
  const Weights weights = affine_weights(1, {3}, 5, 64);
  const array x = Generator(2).normal({3, 2, 64});
  const PackedWeights packed = pack(weights);
  EXPECT_EQ(memory_of(gather_qmm(x, weights)), memory_of(gather_qmm(x, packed)));
  EXPECT_EQ(memory_of(quantized_matmul(x, weights)), memory_of(quantized_matmul(x, packed)));
}

TEST(QuantizedWeights, AGlobalScaleIsPartOfAProductWithoutIndices) {
  Generator random(3);
  Weights weights = random_weights(random, *find_format(Mode::nvfp4, 4), 16, true, {2}, 5, 48);
  weights.global_scale = floats({2}, {100, 200});
  const array x = random.normal({3, 48});
  Lowered lowered = lower_quantized_matmul(x, weights, {});
  expect_within_bound(lowered);
  EXPECT_EQ(memory_of(quantized_matmul(x, weights)), memory_of(gather_qmm(x, weights)));
}

TEST(QuantizedWeights, ComeFromQuantizeReadyForUse) {
  const array w = Generator(4).normal({2, 5, 64});
  const array x = Generator(5).normal({3, 64});
  const QuantizedWeights weights = quantize(w, {.group_size = 32, .bits = 8});
  EXPECT_EQ(weights.shape(), w.shape());
  EXPECT_EQ(dequantize(weights).shape(), w.shape());
  EXPECT_EQ(memory_of(gather_qmm(x, unpack(pack(weights)))), memory_of(gather_qmm(x, weights)));
}

}  // namespace
}  // namespace gqmm::test
