// Shapes and types of results.
#include "api_test_support.hpp"

namespace gqmm::test {

using namespace detail;

namespace {

/// Operands without values: lowering does not look at them.
struct ShapedOperands {
  array x;
  Weights weights;

  ShapedOperands(const Shape& x_shape, const Shape& w_leading, std::int64_t N = 5, bool transpose = true)
      : x(array::empty(x_shape, Dtype::float32)), weights(affine_weights(1, w_leading, N, x_shape.back(), transpose)) {}

  [[nodiscard]] Shape gathered() const { return lower_gather_qmm(x, weights, weights.options).result.shape(); }
  [[nodiscard]] Shape multiplied() const { return lower_quantized_matmul(x, weights, {}).result.shape(); }
};

TEST(Shapes, WithoutIndicesLeadingDimensionsBroadcast) {
  EXPECT_EQ(ShapedOperands({3, 32}, {}).gathered(), (Shape{3, 5}));
  EXPECT_EQ(ShapedOperands({2, 3, 32}, {}).gathered(), (Shape{2, 3, 5}));
  EXPECT_EQ(ShapedOperands({2, 3, 32}, {2}).gathered(), (Shape{2, 3, 5}));
  EXPECT_EQ(ShapedOperands({7, 1, 3, 32}, {2}).gathered(), (Shape{7, 2, 3, 5}));
  EXPECT_EQ(ShapedOperands({1, 3, 32}, {4, 2}).gathered(), (Shape{4, 2, 3, 5}));
  EXPECT_EQ(ShapedOperands({7, 1, 3, 32}, {2}).multiplied(), (Shape{7, 2, 3, 5}));
}

TEST(Shapes, WithoutIndicesLeadingDimensionsOfWAreKept) {
  EXPECT_EQ(ShapedOperands({3, 32}, {4, 2}).gathered(), (Shape{4, 2, 3, 5}));
  EXPECT_EQ(ShapedOperands({3, 32}, {4, 2}).multiplied(), (Shape{4, 2, 3, 5}));
}

TEST(Shapes, WithoutIndicesEachResultPairsItsMatrices) {
  const ShapedOperands operands({2, 1, 1, 32}, {3});
  const Lowered lowered = lower_gather_qmm(operands.x, operands.weights, operands.weights.options);
  EXPECT_EQ(lowered.lhs, (std::vector<std::int64_t>{0, 0, 0, 1, 1, 1}));
  EXPECT_EQ(lowered.rhs, (std::vector<std::int64_t>{0, 1, 2, 0, 1, 2}));
}

TEST(Shapes, AVectorTimesAMatrixIsAVector) {
  EXPECT_EQ(ShapedOperands({32}, {}).multiplied(), (Shape{5}));
  EXPECT_EQ(ShapedOperands({32}, {4}).multiplied(), (Shape{4, 5}));
  EXPECT_EQ(ShapedOperands({32}, {}, 64, false).multiplied(), (Shape{64}));
}

TEST(Shapes, AVectorGivesTheValuesOfItsRow) {
  ShapedOperands operands({32}, {3});
  operands.x = Generator(4).normal({32});
  const array row = array::borrow(operands.x.bytes(), {1, 32}, Dtype::float32);
  EXPECT_EQ(memory_of(quantized_matmul(operands.x, operands.weights, {})),
            memory_of(quantized_matmul(row, operands.weights, {})));
}

TEST(Shapes, WithoutTransposeNIsPacked) { EXPECT_EQ(ShapedOperands({4, 3, 7}, {}, 64, false).gathered(), (Shape{4, 3, 64})); }

TEST(Shapes, ZeroSizesGiveEmptyResults) {
  EXPECT_EQ(ShapedOperands({0, 32}, {}).gathered(), (Shape{0, 5}));
  EXPECT_EQ(ShapedOperands({2, 32}, {}, 0).gathered(), (Shape{2, 0}));
  EXPECT_EQ(ShapedOperands({0, 2, 32}, {}).gathered(), (Shape{0, 2, 5}));
  EXPECT_EQ(ShapedOperands({2, 32}, {0}).gathered(), (Shape{0, 2, 5}));
  EXPECT_EQ(ShapedOperands({2, 7}, {}, 0, false).gathered(), (Shape{2, 0}));

  ShapedOperands operands({2, 2, 32}, {3});
  operands.weights.options.lhs_indices = int64s({0}, {});
  operands.weights.options.rhs_indices = int64s({4, 1}, {0, 1, 2, 0});
  EXPECT_EQ(operands.gathered(), (Shape{4, 0, 2, 5}));
  for (const Shape& shape : {Shape{0, 32}, Shape{0, 2, 32}}) {
    const ShapedOperands empty(shape, {});
    EXPECT_EQ(gather_qmm(empty.x, empty.weights, empty.weights.options).size(), 0);
  }
}

TEST(Shapes, EmptyIndicesIntoNoMatricesAreFine) {
  ShapedOperands operands({2, 32}, {0});
  operands.weights.options.rhs_indices = int64s({0}, {});
  EXPECT_EQ(operands.gathered(), (Shape{0, 2, 5}));
}

TEST(Shapes, AffineResultsHaveThePromotedType) {
  constexpr Dtype types[] = {Dtype::float16, Dtype::bfloat16, Dtype::float32};
  for (const Dtype x : types) {
    for (const Dtype scales : types) {
      for (const Dtype biases : types) {
        ShapedOperands operands({1, 32}, {});
        operands.x = array::empty({1, 32}, x);
        operands.weights.scales = array::empty({5, 1}, scales);
        operands.weights.biases = array::empty({5, 1}, biases);
        const Dtype expected = x == scales && scales == biases ? x : Dtype::float32;
        EXPECT_EQ(lower_gather_qmm(operands.x, operands.weights, operands.weights.options).result.dtype(), expected)
            << name_of(x) << ", " << name_of(scales) << ", " << name_of(biases);
      }
    }
  }
}

TEST(Shapes, FloatingPointModesKeepTheTypeOfX) {
  Generator random(1);
  for (const Mode mode : {Mode::mxfp4, Mode::mxfp8, Mode::nvfp4}) {
    const QuantizationSettings settings = resolve_settings("test", mode, nullptr, nullptr);
    const Weights weights = random_weights(random, *settings.format, settings.group_size, true, {}, 5, 32);
    for (const Dtype x : {Dtype::float16, Dtype::bfloat16, Dtype::float32}) {
      EXPECT_EQ(lower_gather_qmm(array::empty({1, 32}, x), weights, weights.options).result.dtype(), x);
    }
  }
}

TEST(Shapes, PrecisionDecidesTheSlices) {
  const auto slices = [](Dtype dtype, Precision precision) {
    ShapedOperands operands({1, 32}, {});
    operands.x = array::empty({1, 32}, dtype);
    operands.weights.biases = operands.weights.scales = array::empty({5, 1}, dtype);
    operands.weights.options.precision = precision;
    return lower_gather_qmm(operands.x, operands.weights, operands.weights.options).problem.slices;
  };
  EXPECT_EQ(slices(Dtype::float32, Precision::standard), 3);
  EXPECT_EQ(slices(Dtype::bfloat16, Precision::standard), 2);
  EXPECT_EQ(slices(Dtype::float16, Precision::fast), 1);
  EXPECT_EQ(slices(Dtype::float16, Precision::float32), 3);
}

TEST(Shapes, GlobalScaleIsOneForAllOrOnePerMatrix) {
  Generator random(7);
  Weights weights = random_weights(random, *find_format(Mode::nvfp4, 4), 16, true, {2, 2}, 5, 48);
  const array x = random.normal({3, 48});
  weights.global_scale = floats({2, 2}, {100, 200, 300, 400});
  Lowered each = lower_gather_qmm(x, weights, weights.options);
  EXPECT_EQ(load_float(quantized(each.problem.weights)->global_scale.matrix(2), Dtype::float32), 300.0F);
  expect_within_bound(each);
  weights.global_scale = floats({1}, {50});
  Lowered all = lower_gather_qmm(x, weights, weights.options);
  EXPECT_EQ(load_float(quantized(all.problem.weights)->global_scale.matrix(3), Dtype::float32), 50.0F);
  expect_within_bound(all);
}

TEST(Shapes, MixedTypesKeepTheirValues) {
  Generator random(8);
  Weights weights = random_weights(random, *find_format(Mode::affine, 4), 32, true, {2}, 5, 64, Dtype::bfloat16);
  weights.biases = random.normal({2, 5, 2}, Dtype::float16);
  const array x = random.normal({3, 64}, Dtype::float16);
  Lowered lowered = lower_gather_qmm(x, weights, weights.options);
  EXPECT_EQ(lowered.result.dtype(), Dtype::float32);
  expect_within_bound(lowered);
}

TEST(GatherMm, SqueezesOneDimensionalOperands) {
  const auto shape = [](const Shape& a, const Shape& b, const GatherMmOptions& options = {}) {
    return lower_gather_mm(array::empty(a, Dtype::float32), array::empty(b, Dtype::float32), options).result.shape();
  };
  EXPECT_EQ(shape({3, 4}, {4, 5}), (Shape{3, 5}));
  EXPECT_EQ(shape({4}, {4, 5}), (Shape{5}));
  EXPECT_EQ(shape({3, 4}, {4}), (Shape{3}));
  EXPECT_EQ(shape({4}, {4}), (Shape{}));
  EXPECT_EQ(shape({2, 3, 4}, {7, 1, 4, 5}), (Shape{7, 2, 3, 5}));
  EXPECT_EQ(shape({4}, {6, 4, 5}, {.rhs_indices = int64s({3}, {5, 0, 1})}), (Shape{3, 5}));
  EXPECT_EQ(shape({6, 3, 4}, {4}, {.lhs_indices = int64s({2, 1}, {5, 0})}), (Shape{2, 1, 3}));
}

TEST(GatherMm, MultipliesWhatTheIndicesSelect) {
  Generator random(9);
  for (const Dtype dtype : {Dtype::float32, Dtype::float16, Dtype::bfloat16}) {
    const array a = random.normal({4, 3, 20}, dtype);
    const array b = random.normal({5, 20, 7}, dtype);
    Lowered lowered = lower_gather_mm(a, b, {.lhs_indices = int64s({2, 1}, {3, 0}), .rhs_indices = int64s({3}, {4, 4, 1})});
    EXPECT_EQ(lowered.result.shape(), (Shape{2, 3, 3, 7}));
    EXPECT_EQ(lowered.result.dtype(), dtype);
    expect_within_bound(lowered);
  }
}

TEST(GatherMm, PromotesItsOperands) {
  const array a = Generator(1).normal({2, 8}, Dtype::float16);
  const array b = Generator(2).normal({8, 3}, Dtype::bfloat16);
  Lowered lowered = lower_gather_mm(a, b, {});
  EXPECT_EQ(lowered.result.dtype(), Dtype::float32);
  expect_within_bound(lowered);
}

TEST(GatherMm, SumsHalfTypesInFloat32) {
  // Adding ones in float16 stops at 2048.
  const array a = floats({1, 4096}, std::vector<float>(4096, 1.0F), Dtype::float16);
  const array b = floats({4096, 1}, std::vector<float>(4096, 1.0F), Dtype::float16);
  EXPECT_EQ(values_of(gather_mm(a, b)), (std::vector<float>{4096}));
}

}  // namespace
}  // namespace gqmm::test
