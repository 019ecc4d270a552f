// unpack: every bit that pack was given, whatever happened to the weights in between.
#include "pack_test_support.hpp"

namespace gqmm::test {

using namespace detail;

namespace {

void expect_same(const array& unpacked, const array& original) {
  EXPECT_EQ(unpacked.dtype(), original.dtype());
  EXPECT_EQ(unpacked.shape(), original.shape());
  EXPECT_EQ(memory_of(unpacked), memory_of(original));
  EXPECT_TRUE(unpacked.is_writable());
}

void expect_same(const std::optional<array>& unpacked, const std::optional<array>& original) {
  ASSERT_EQ(unpacked.has_value(), original.has_value());
  if (unpacked) {
    expect_same(*unpacked, *original);
  }
}

void expect_same(const QuantizedWeights& unpacked, const Weights& original) {
  expect_same(unpacked.w, original.w);
  expect_same(unpacked.scales, original.scales);
  expect_same(unpacked.biases, original.biases);
  expect_same(unpacked.global_scale, original.global_scale);
  EXPECT_EQ(unpacked.mode, original.mode);
  EXPECT_EQ(unpacked.bits, original.bits);
  EXPECT_EQ(unpacked.group_size, original.group_size);
  EXPECT_EQ(unpacked.transpose, original.transpose);
}

class Unpack : public testing::TestWithParam<PackCase> {
 protected:
  /// Weights of this case with `rows` rows of three groups.
  Weights weights(const Shape& leading, std::int64_t rows, Dtype scale_dtype = Dtype::bfloat16) {
    const auto& [format, group_size, transpose] = GetParam();
    const std::int64_t along = 3 * group_size;
    Weights weights = random_weights(random, *format, group_size, transpose, leading, transpose ? rows : along,
                                     transpose ? along : rows, scale_dtype);
    if (format->has_global_scale) {
      weights.global_scale = random.normal(leading);
    }
    return weights;
  }
  Generator random{1};
};

TEST_P(Unpack, GivesBackEveryBit) {
  for (const Shape& leading : {Shape{}, Shape{3}, Shape{2, 2}}) {
    for (const std::int64_t rows : {1, 15, 16, 17, 32, 50}) {
      const Weights original = weights(leading, rows);
      expect_same(unpack(pack(original)), original);
    }
  }
}

TEST_P(Unpack, GivesBackEveryBitOfASavedFile) {
  const TemporaryFolder folder;
  for (const std::int64_t rows : {16, 17}) {
    const Weights original = weights({2, 2}, rows, Dtype::float16);
    pack(original).save(folder.file("w"));
    const QuantizedWeights unpacked = unpack(PackedWeights::load(folder.file("w")));  // outlives the mapping
    expect_same(unpacked, original);
  }
}

INSTANTIATE_TEST_SUITE_P(EveryFormat, Unpack, testing::ValuesIn(all_pack_cases()), name_of_pack_case);

TEST(UnpackedWeights, HoldAGlobalScaleForEachMatrixOrNone) {
  Generator random(3);
  Weights original = random_weights(random, *find_format(Mode::nvfp4, 4), 16, true, {2, 3}, 5, 64);
  EXPECT_FALSE(unpack(pack(original)).global_scale);
  original.global_scale = floats({1}, {2.5F});
  const std::optional<array> global_scale = unpack(pack(original)).global_scale;
  ASSERT_TRUE(global_scale);
  expect_same(*global_scale, floats({2, 3}, std::vector<float>(6, 2.5F)));
}

TEST(UnpackedWeights, MixedTypesOfScalesAndBiasesStayMixed) {
  Weights original = affine_weights(1, {3}, 17, 64);
  original.biases = Generator(2).normal(original.biases->shape(), Dtype::float16);
  expect_same(unpack(pack(original)), original);
}

TEST(UnpackedWeights, MayBeEmpty) {
  for (const auto& [leading, N] : {std::pair<Shape, std::int64_t>{{0}, 5}, {{2}, 0}}) {
    for (const bool transpose : {true, false}) {
      const Weights original = affine_weights(1, leading, N, 32, transpose);
      expect_same(unpack(pack(original)), original);
    }
  }
}

}  // namespace
}  // namespace gqmm::test
