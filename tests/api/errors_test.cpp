// Every way of calling the operators wrongly, with the message that it gets. Indices and arrays have files of their own.
#include "api_test_support.hpp"

namespace gqmm::test {

using namespace detail;

namespace {

/// A valid call that each test breaks in one place: x (3, 2, 64), w (4, 5, 64) in 4 bits, groups of 32.
class GatherQmmErrors : public testing::Test {
 protected:
  void expect(const std::string& message) {
    expect_error(message, [&] { gather_qmm(x, weights, options); });
  }

  array x = Generator(1).normal({3, 2, 64});
  Weights weights = affine_weights(2, {4}, 5, 64);
  array& w = weights.w;
  GatherQmmOptions& options = weights.options;

  void SetUp() override {
    options.lhs_indices = int64s({2}, {0, 2});
    options.rhs_indices = int64s({2}, {3, 1});
  }
};

TEST_F(GatherQmmErrors, TheUnbrokenCallWorks) { EXPECT_EQ(gather_qmm(x, weights, options).shape(), (Shape{2, 2, 5})); }

TEST_F(GatherQmmErrors, XOfTheWrongType) {
  x = array::empty({3, 2, 64}, Dtype::int32);
  expect("[gather_qmm] x has type int32; convert it to float32, float16 or bfloat16");
  x = array::empty({3, 2, 64}, Dtype::float64);
  expect("[gather_qmm] x has type float64; convert it to float32, float16 or bfloat16");
}

TEST_F(GatherQmmErrors, XOfOneDimension) {
  x = Generator(1).normal({64});
  expect("[gather_qmm] x has shape (64,); it needs at least two dimensions, (..., M, K): reshape it to (1, K) for a single row");
  options.lhs_indices.reset();
  options.rhs_indices.reset();
  expect("[gather_qmm] x has shape (64,); it needs at least two dimensions, (..., M, K): reshape it to (1, K) for a single row");
}

TEST_F(GatherQmmErrors, KThatIsNoMultipleOfTheGroupSize) {
  weights.group_size.reset();  // 64
  x = Generator(1).normal({3, 2, 100});
  expect("[gather_qmm] K = 100 is not a multiple of group_size = 64; pad x and w to K = 128");
  x = Generator(1).normal({3, 2, 96});
  expect("[gather_qmm] K = 96 is not a multiple of group_size = 64; pad x and w to K = 128 or quantize with group_size = 32");
}

TEST_F(GatherQmmErrors, KThatIsNotThatOfW) {
  x = Generator(1).normal({3, 2, 32});
  expect("[gather_qmm] x has K = 32 but w of shape (4, 5, 8) with bits = 4 and transpose = true has K = 64; bits = 8 would fit");
  x = Generator(1).normal({3, 2, 96});
  expect(
      "[gather_qmm] x has K = 96 but w of shape (4, 5, 8) with bits = 4 and transpose = true has K = 64; the last dimension "
      "of x must be K");
}

TEST_F(GatherQmmErrors, KThatFitsTheOtherTranspose) {
  weights = affine_weights(2, {4}, 96, 64);
  SetUp();
  x = Generator(1).normal({3, 2, 96});
  expect(
      "[gather_qmm] x has K = 96 but w of shape (4, 96, 8) with bits = 4 and transpose = true has K = 64; transpose = false "
      "would fit");
  x = Generator(1).normal({3, 2, 64});
  weights.transpose = false;
  expect(
      "[gather_qmm] x has K = 64 but w of shape (4, 96, 8) with bits = 4 and transpose = false has K = 96; transpose = true "
      "would fit");
}

TEST_F(GatherQmmErrors, KOfZero) {
  x = Generator(1).normal({3, 2, 0});
  expect("[gather_qmm] K = 0: the rows of x are empty; K must be positive");
  x = Generator(1).normal({3, 2, 64});
  w = array::empty({4, 5, 0}, Dtype::uint32);
  expect("[gather_qmm] K = 0: w has shape (4, 5, 0); K must be positive");
  weights.transpose = false;
  w = array::empty({4, 0, 8}, Dtype::uint32);
  expect("[gather_qmm] K = 0: w has shape (4, 0, 8); K must be positive");
}

TEST_F(GatherQmmErrors, WThatIsNotQuantized) {
  w = array::empty({4, 5, 8}, Dtype::int32);
  expect("[gather_qmm] w has type int32; quantized weights are uint32 words, as quantize returns them");
  w = array::empty({8}, Dtype::uint32);
  expect("[gather_qmm] w has shape (8,); it needs at least two dimensions");
}

TEST_F(GatherQmmErrors, RowsOfWThatAreNoWholeGroups) {
  w = array::empty({4, 5, 7}, Dtype::uint32);
  expect(
      "[gather_qmm] w of shape (4, 5, 7) has 7 words per row, which do not hold a whole number of groups of group_size = 32 "
      "codes with bits = 4; check bits and group_size");
  weights.bits = 3;
  w = array::empty({4, 5, 8}, Dtype::uint32);
  expect(
      "[gather_qmm] w of shape (4, 5, 8) has 8 words per row, which do not hold a whole number of groups of group_size = 32 "
      "codes with bits = 3; check bits and group_size");
}

TEST_F(GatherQmmErrors, MissingArrays) {
  const array biases = *weights.biases;
  weights.biases.reset();
  expect("[gather_qmm] biases is missing; mode \"affine\" needs it: pass the third array that quantize returns");
  weights.biases = biases;
  weights.scales = array();
  expect("[gather_qmm] scales is missing; pass the second array that quantize returns");
}

TEST_F(GatherQmmErrors, SuperfluousBiases) {
  weights.mode = Mode::mxfp4;
  weights.scales = array::empty({4, 5, 2}, Dtype::uint8);
  expect("[gather_qmm] biases is given but mode \"mxfp4\" has none; leave it out");
}

TEST_F(GatherQmmErrors, ScalesAndBiasesOfTheWrongType) {
  weights.biases = array::empty({4, 5, 2}, Dtype::float64);
  expect("[gather_qmm] biases has type float64; mode \"affine\" takes float32, float16 or bfloat16");
  weights.scales = array::empty({4, 5, 2}, Dtype::uint8);
  expect("[gather_qmm] scales has type uint8; mode \"affine\" takes float32, float16 or bfloat16");
  weights.mode = Mode::mxfp4;
  weights.biases.reset();
  weights.scales = floats({4, 5, 2}, std::vector<float>(40, 1.0F));
  expect("[gather_qmm] scales has type float32; mode \"mxfp4\" takes uint8, the bytes that quantize returns");
  weights.scales = array::empty({4, 5, 2}, Dtype::int8);
  expect(
      "[gather_qmm] scales has type int8; mode \"mxfp4\" takes uint8, the bytes that quantize returns; if these are such bytes, "
      "view "
      "them as uint8, for a conversion would change them");
}

TEST_F(GatherQmmErrors, ShapesThatContradictW) {
  Generator random(3);
  const array scales = weights.scales;
  weights.scales = random.normal({4, 5, 1});
  expect(
      "[gather_qmm] scales has shape (4, 5, 1) but w of shape (4, 5, 8) with bits = 4 and group_size = 32 needs (4, 5, 2); "
      "group_size = 64 would fit");
  weights.scales = random.normal({4, 6, 1});
  expect(
      "[gather_qmm] scales has shape (4, 6, 1) but w of shape (4, 5, 8) with bits = 4 and group_size = 32 needs (4, 5, 2); "
      "pass the arrays of one quantize call");
  weights.scales = random.normal({5, 2});
  expect(
      "[gather_qmm] scales has shape (5, 2) but w of shape (4, 5, 8) with bits = 4 and group_size = 32 needs (4, 5, 2); pass "
      "the arrays of one quantize call");
  weights.scales = scales;
  weights.biases = random.normal({1, 5, 2});
  expect(
      "[gather_qmm] biases has shape (1, 5, 2) but w of shape (4, 5, 8) with bits = 4 and group_size = 32 needs (4, 5, 2); "
      "pass the arrays of one quantize call");
}

TEST_F(GatherQmmErrors, SettingsOutOfTheTable) {
  weights.bits = 7;
  expect("[gather_qmm] bits = 7 is not available in mode \"affine\"; use one of 1, 2, 3, 4, 5, 6, 8");
  weights.bits = -4;
  expect("[gather_qmm] bits = -4 is not available in mode \"affine\"; use one of 1, 2, 3, 4, 5, 6, 8");
  weights.bits = 4;
  weights.group_size = 16;
  expect("[gather_qmm] group_size = 16 is not available in mode \"affine\"; use one of 32, 64, 128");
  weights.mode = Mode::nvfp4;
  weights.group_size = 32;
  expect("[gather_qmm] group_size = 32 is not available in mode \"nvfp4\"; use one of 16");
  weights.mode = Mode::mxfp8;
  expect("[gather_qmm] bits = 4 is not available in mode \"mxfp8\"; use one of 8");
}

TEST_F(GatherQmmErrors, UnknownNames) {
  std::string names;
  for (const Mode mode : modes()) {
    names += std::string(names.empty() ? "\"" : ", \"") + std::string(name_of(mode)) + "\"";
  }
  expect_error("[gather_qmm] unknown mode \"q4_0\"; use one of " + names, [] { (void)mode_from_name("q4_0", "gather_qmm"); });
  expect_error("[gather_qmm] unknown precision \"exact\"; use one of \"default\", \"fast\", \"float32\"",
               [] { (void)precision_from_name("exact", "gather_qmm"); });
}

TEST_F(GatherQmmErrors, GlobalScales) {
  weights.global_scale = floats({}, {1});
  expect("[gather_qmm] global_scale is given but mode \"affine\" has none; only \"nvfp4\" takes it");

  Generator random(3);
  weights = random_weights(random, *find_format(Mode::nvfp4, 4), 16, true, {4}, 5, 64);
  SetUp();
  weights.global_scale = floats({4}, {1, 1, 1, 1}, Dtype::float16);
  expect("[gather_qmm] global_scale has type float16; convert it to float32");
  weights.global_scale = floats({3}, {1, 1, 1});
  expect("[gather_qmm] global_scale has shape (3,) but the leading shape of w is (4,); pass one value, or one per matrix");
  weights.global_scale = floats({1, 4}, {1, 1, 1, 1});
  expect("[gather_qmm] global_scale has shape (1, 4) but the leading shape of w is (4,); pass one value, or one per matrix");
}

TEST_F(GatherQmmErrors, Streams) {
  options.stream.device.index = 1;
  expect("[gather_qmm] stream on device (type 0, index 1) is not supported; this build has the CPU only, type 0 and index 0");
  options.stream = {.device = {}, .threads = -2};
  expect("[gather_qmm] stream.threads = -2 is negative; use 0 for as many as the machine grants");
  options.stream.threads = 4097;
  expect("[gather_qmm] stream.threads = 4097 exceeds 4096; use 0 for as many as the machine grants");
  std::vector<int> nodes;
  for (const MemoryNode& node : memory_nodes()) {
    nodes.push_back(node.number);
  }
  for (const int wrong : {-1, nodes.back() + 1, std::numeric_limits<int>::max()}) {
    options.stream = {.node = wrong};
    expect(fmt::format(
        "[gather_qmm] stream.node = {} is no memory node of which this thread may use a processor; give one of {}, or "
        "none for any",
        wrong, fmt::join(nodes, ", ")));
  }
}

TEST_F(GatherQmmErrors, ResultsBeyond64Bits) {
  const float zero = 0;
  const std::int64_t huge = std::int64_t{1} << 40;
  x = array::borrow(&zero, {3, huge, 64}, Dtype::float32, {0, 0, 4});
  weights.w = array::borrow(&zero, {4, huge, 8}, Dtype::uint32, {0, 0, 4});
  weights.biases = weights.scales = array::borrow(&zero, {4, huge, 2}, Dtype::float32, {0, 0, 4});
  expect(
      "[gather_qmm] the result of shape (2, 1099511627776, 1099511627776) has more elements than 64 bits can count; split "
      "the call");
}

TEST_F(GatherQmmErrors, HugeExtentsAreComparedWithoutOverflow) {
  const float zero = 0;
  x = array::borrow(&zero, {1, 1, std::int64_t{1} << 60}, Dtype::float32, {0, 0, 0});
  expect(
      "[gather_qmm] x has K = 1152921504606846976 but w of shape (4, 5, 8) with bits = 4 and transpose = true has K = 64; the "
      "last dimension of x must be K");
  x = Generator(1).normal({3, 2, 64});
  weights.biases = array::borrow(&zero, {1, 1, std::int64_t{1} << 61}, Dtype::float16, {0, 0, 0});
  expect(
      "[gather_qmm] biases has shape (1, 1, 2305843009213693952) but w of shape (4, 5, 8) with bits = 4 and group_size = 32 "
      "needs (4, 5, 2); pass the arrays of one quantize call");
}

class QuantizedMatmulErrors : public testing::Test {
 protected:
  void expect(const std::string& message) {
    expect_error(message, [&] { quantized_matmul(x, weights, {}); });
  }
  array x = Generator(1).normal({2, 64});
  Weights weights = affine_weights(2, {}, 5, 64);
};

TEST_F(QuantizedMatmulErrors, NameTheOperation) {
  x = Generator(1).normal({2, 48});
  expect("[quantized_matmul] K = 48 is not a multiple of group_size = 32; pad x and w to K = 64");
}

TEST_F(QuantizedMatmulErrors, Scalars) {
  x = floats({}, {1});
  expect("[quantized_matmul] x is a scalar; it needs at least one dimension, (K,)");
}

TEST_F(QuantizedMatmulErrors, LeadingDimensionsThatDoNotBroadcast) {
  x = Generator(1).normal({3, 2, 64});
  weights = affine_weights(2, {4}, 5, 64);
  expect(
      "[quantized_matmul] leading dimensions of x (3,) and leading dimensions of w (4,) do not broadcast; make each pair of "
      "extents equal or one of them 1");
}

TEST(GatherMmErrors, Types) {
  const array a = floats({1, 2}, {1, 2});
  const array integer = integers<std::int32_t>({2, 1}, {1, 2}, Dtype::int32);
  expect_error("[gather_mm] b has type int32; convert it to float32, float16 or bfloat16", [&] { gather_mm(a, integer); });
  expect_error("[gather_mm] a has type int32; convert it to float32, float16 or bfloat16", [&] { gather_mm(integer, a); });
}

TEST(GatherMmErrors, Shapes) {
  expect_error(
      "[gather_mm] a of shape (2, 3) has K = 3 but b of shape (4, 5) has K = 4; the last dimension of a must be the last "
      "but one of b",
      [] { gather_mm(array::empty({2, 3}, Dtype::float32), array::empty({4, 5}, Dtype::float32)); });
  expect_error("[gather_mm] b is a scalar; it needs at least one dimension",
               [] { gather_mm(floats({2}, {1, 2}), floats({}, {1})); });
  expect_error("[gather_mm] K = 0: the rows of a of shape (2, 0) are empty; K must be positive",
               [] { gather_mm(array::empty({2, 0}, Dtype::float32), array::empty({0, 5}, Dtype::float32)); });
  expect_error(
      "[gather_mm] leading dimensions of a (2,) and leading dimensions of b (3,) do not broadcast; make each pair of "
      "extents equal or one of them 1",
      [] { gather_mm(array::empty({2, 1, 4}, Dtype::float32), array::empty({3, 4, 1}, Dtype::float32)); });
}

TEST(GatherMmErrors, IndicesAndStreams) {
  const array a = floats({2, 1, 1}, {1, 2});
  expect_error("[gather_mm] rhs_indices[0] = 2 is out of range: b has 2 matrices, so indices must lie in 0 ... 1",
               [&] { gather_mm(a, a, {.rhs_indices = int64s({1}, {2})}); });
  expect_error(
      "[gather_mm] sorted_indices is set but rhs_indices[1] = 0 follows 1; sort the pairs by rhs_indices or leave "
      "sorted_indices unset",
      [&] { gather_mm(a, a, {.rhs_indices = int64s({2}, {1, 0}), .sorted_indices = true}); });
  expect_error("[gather_mm] stream.threads = -1 is negative; use 0 for as many as the machine grants",
               [&] { gather_mm(a, a, {.stream = {.device = {}, .threads = -1}}); });
}

TEST(QuantizeErrors, Inputs) {
  expect_error("[quantize] w has type float64; convert it to float32, float16 or bfloat16",
               [] { quantize(array::empty({2, 64}, Dtype::float64)); });
  expect_error("[quantize] w has shape (64,); it needs at least two dimensions: reshape it to (1, K) for a single row",
               [] { quantize(array::empty({64}, Dtype::float32)); });
  expect_error("[quantize] K = 100 is not a multiple of group_size = 64; pad w to K = 128",
               [] { quantize(array::empty({2, 100}, Dtype::float32)); });
  expect_error("[quantize] K = 0: w has shape (2, 0); K must be positive",
               [] { quantize(array::empty({2, 0}, Dtype::float32)); });
  expect_error("[quantize] bits = 7 is not available in mode \"affine\"; use one of 1, 2, 3, 4, 5, 6, 8",
               [] { quantize(array::empty({2, 64}, Dtype::float32), {.bits = 7}); });
}

TEST(QuantizeErrors, GlobalScaleIsOneFloat32OfNvfp4) {
  const array w = Generator(1).normal({2, 64});
  expect_error("[quantize] global_scale is given but mode \"affine\" has none; only \"nvfp4\" takes it",
               [&] { quantize(w, {.global_scale = floats({}, {1})}); });
  expect_error("[quantize] global_scale has shape (2,); pass one value",
               [&] { quantize(w, {.mode = Mode::nvfp4, .global_scale = floats({2}, {1, 1})}); });
  expect_error("[quantize] global_scale has type bfloat16; convert it to float32",
               [&] { quantize(w, {.mode = Mode::nvfp4, .global_scale = floats({}, {1}, Dtype::bfloat16)}); });
}

TEST(DequantizeErrors, Inputs) {
  Weights weights = affine_weights(1, {}, 5, 64);
  const auto expect = [&](const std::string& message) { expect_error(message, [&] { return dequantize(weights); }); };
  expect_error("[dequantize] dtype = int32 is not available; use float32, float16 or bfloat16",
               [&] { return dequantize(weights, {.dtype = Dtype::int32}); });
  weights.group_size.reset();
  expect(
      "[dequantize] scales has shape (5, 2) but w of shape (5, 8) with bits = 4 and group_size = 64 needs (5, 1); "
      "group_size = 32 would fit");
  weights.biases.reset();
  expect("[dequantize] biases is missing; mode \"affine\" needs it: pass the third array that quantize returns");
  weights.w = weights.scales;
  expect("[dequantize] w has type float32; quantized weights are uint32 words, as quantize returns them");
}

}  // namespace
}  // namespace gqmm::test
