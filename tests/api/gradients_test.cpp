// The gradients' arguments: what is refused, where results may go, and the shapes that they have.
#include "api_test_support.hpp"

#include <gqmm/interrupt.hpp>

namespace gqmm::test {

using namespace detail;

namespace {

class GradientArguments : public testing::Test {
 protected:
  void expect(const std::string& message) {
    expect_error(message, [&] { return gather_qmm_vjp(dy, x, weights, options); });
  }
  array x = Generator(1).normal({3, 64});
  Weights weights = affine_weights(2, {2}, 5, 64);
  array dy = Generator(3).normal({2, 3, 5});
  GatherQmmVjpOptions options;
};

TEST_F(GradientArguments, DyHasTheShapeOfTheProduct) {
  dy = Generator(3).normal({2, 3, 4});
  expect(
      "[gather_qmm_vjp] dy has shape (2, 3, 4) but the product has shape (2, 3, 5); pass the gradient of the product, one value "
      "for each of its elements");
  dy = array::empty({2, 3, 5}, Dtype::int32);
  expect("[gather_qmm_vjp] dy has type int32; convert it to float32, float16 or bfloat16");
}

TEST_F(GradientArguments, SomethingMustBeWanted) {
  options.wrt = {.x = false};
  expect("[gather_qmm_vjp] wrt is empty; ask for the gradient of x, scales or biases");
  expect_error("[gather_mm_vjp] wrt is empty; ask for the gradient of a or b",
               [&] { return gather_mm_vjp(dy, x, Generator(4).normal({64, 5}), {.wrt = {.a = false, .b = false}}); });
}

TEST_F(GradientArguments, ScalesThatAreCodesHaveNoGradient) {
  Generator random(4);
  const Weights codes = random_weights(random, *find_format(Mode::mxfp4, 4), 32, true, {2}, 5, 64);
  expect_error(
      "[gather_qmm_vjp] wrt has scales but mode \"mxfp4\" has no gradient of scales, which are codes; ask for that of x alone",
      [&] { return gather_qmm_vjp(dy, x, codes, {.wrt = {.scales = true}}); });
  expect_error("[quantized_matmul_vjp] wrt has biases but mode \"mxfp4\" has no gradient of biases; ask for that of x alone",
               [&] { return quantized_matmul_vjp(dy, x, codes, {.wrt = {.biases = true}}); });
}

TEST_F(GradientArguments, IndicesAreCheckedAsThoseOfTheProduct) {
  options.rhs_indices = int64s({2}, {0, 2});
  expect("[gather_qmm_vjp] rhs_indices[1] = 2 is out of range: w has 2 matrices, so indices must lie in 0 ... 1");
  options.rhs_indices = int64s({2}, {1, 0});
  options.sorted_indices = true;
  expect(
      "[gather_qmm_vjp] sorted_indices is set but rhs_indices[1] = 0 follows 1; sort the pairs by rhs_indices or leave "
      "sorted_indices unset");
}

TEST_F(GradientArguments, OutMustBeOfTheOperandsShapeAndWanted) {
  options.out.x = array::empty({3, 63}, Dtype::float32);
  expect("[gather_qmm_vjp] out.x is float32 (3, 63) but the result is float32 (3, 64); allocate it so");
  options.out = {.scales = array::empty({2, 5, 2}, Dtype::float32)};
  expect("[gather_qmm_vjp] out.scales is given but wrt leaves scales out; ask for that gradient or pass no memory for it");
}

TEST_F(GradientArguments, OutMayNotOverlapWhatIsReadNorAnotherGradient) {
  options.wrt = {.scales = true, .biases = true};
  options.out.x = array::borrow_mut(const_cast<std::byte*>(x.bytes()), {3, 64}, Dtype::float32);
  expect("[gather_qmm_vjp] out.x overlaps the memory of x; pass memory of its own");
  options.out.x = array::borrow_mut(array::empty({2 * 3 * 64}, Dtype::float32).mutable_bytes(), {3, 64}, Dtype::float32);
  const array scales = array::empty({2, 5, 2}, Dtype::float32);
  options.out = {.scales = scales, .biases = scales};
  expect("[gather_qmm_vjp] out.biases overlaps the memory of scales; pass memory of its own");
}

TEST_F(GradientArguments, OutReceivesTheGradients) {
  options.wrt = {.scales = true, .biases = true};
  const QuantizedGradients expected = gather_qmm_vjp(dy, x, weights, options);
  options.out = {.x = array::empty({3, 64}, Dtype::float32),
                 .scales = array::empty({2, 5, 2}, Dtype::float32),
                 .biases = array::empty({2, 5, 2}, Dtype::float32)};
  const QuantizedGradients gradients = gather_qmm_vjp(dy, x, weights, options);
  for (const auto member : {&QuantizedGradients::x, &QuantizedGradients::scales, &QuantizedGradients::biases}) {
    EXPECT_EQ((gradients.*member)->bytes(), (options.out.*member)->bytes());
    EXPECT_EQ(memory_of(*(gradients.*member)), memory_of(*(expected.*member)));
  }
}

/// x is read for scales and biases alone, and so are a and b for each other: a front end has no memory for what it does not need.
TEST_F(GradientArguments, OperandsThatAreNotReadNeedNoMemory) {
  std::byte nothing{};
  const array outline = array::borrow(&nothing, {3, 64}, Dtype::float32);
  EXPECT_EQ(memory_of(*gather_qmm_vjp(dy, outline, weights).x), memory_of(*gather_qmm_vjp(dy, x, weights).x));
  const array b = Generator(5).normal({64, 5});
  const array b_outline = array::borrow(&nothing, {64, 5}, Dtype::float32);
  const array of_product = Generator(6).normal({3, 5});
  const DenseGradients both = gather_mm_vjp(of_product, x, b);
  EXPECT_EQ(memory_of(*gather_mm_vjp(of_product, outline, b, {.wrt = {.b = false}}).a), memory_of(*both.a));
  EXPECT_EQ(memory_of(*gather_mm_vjp(of_product, x, b_outline, {.wrt = {.a = false}}).b), memory_of(*both.b));
}

TEST(GradientShapes, AreThoseOfTheOperands) {
  Generator random(7);
  const Weights weights = affine_weights(8, {}, 5, 64);
  const array vector = random.normal({64}, Dtype::float16);
  const QuantizedGradients gradients =
      quantized_matmul_vjp(random.normal({5}), vector, weights, {.wrt = {.scales = true, .biases = true}});
  EXPECT_EQ(gradients.x->shape(), vector.shape());
  EXPECT_EQ(gradients.x->dtype(), Dtype::float16);
  EXPECT_EQ(gradients.scales->shape(), weights.scales.shape());
  EXPECT_EQ(gradients.biases->shape(), weights.biases->shape());
  const DenseGradients dense = gather_mm_vjp(random.normal({}), vector, random.normal({64}));
  EXPECT_EQ(dense.a->shape(), Shape({64}));
  EXPECT_EQ(dense.b->shape(), Shape({64}));
}

TEST(GradientShapes, NothingToSumIsZero) {
  Generator random(9);
  const Weights weights = affine_weights(10, {2}, 5, 64);
  const QuantizedGradients gradients =
      gather_qmm_vjp(random.normal({0, 3, 5}), random.normal({4, 3, 64}), weights,
                     {.lhs_indices = int64s({0}, {}), .rhs_indices = int64s({0}, {}), .wrt = {.scales = true, .biases = true}});
  for (const std::optional<array>& gradient : {gradients.x, gradients.scales, gradients.biases}) {
    EXPECT_EQ(values_of(*gradient), std::vector<float>(static_cast<std::size_t>(gradient->size()), 0.0F));
  }
  const DenseGradients no_outputs = gather_mm_vjp(random.normal({3, 0}), random.normal({3, 7}), random.normal({7, 0}));
  EXPECT_EQ(values_of(*no_outputs.a), std::vector<float>(21, 0.0F));
  const DenseGradients no_rows = gather_mm_vjp(random.normal({0, 4}), random.normal({0, 7}), random.normal({7, 4}));
  EXPECT_EQ(values_of(*no_rows.b), std::vector<float>(28, 0.0F));
}

TEST(GradientCalls, StopWhenTheyAreInterrupted) {
  Generator random(11);
  const Weights weights = affine_weights(12, {}, 512, 512);
  const array x = random.normal({2000, 512});
  const array dy = random.normal({2000, 512});
  const InterruptCheck check([] { return true; });
  EXPECT_THROW(
      {
        for (int call = 0; call < 1000; ++call) {  // the check is asked every 50 ms
          (void)quantized_matmul_vjp(dy, x, weights, {.wrt = {.scales = true}});
        }
      },
      Interrupted);
}

TEST(Inference, TellsShapeAndTypeWithoutMemory) {
  std::byte nothing{};
  const Weights weights = affine_weights(13, {2}, 5, 64);
  const array x = array::borrow(&nothing, {3, 64}, Dtype::bfloat16);
  const ResultType expected = {{2, 3, 5}, Dtype::float32};
  EXPECT_EQ(infer_gather_qmm(x, weights), expected);
  EXPECT_EQ(infer_gather_qmm(x, pack(weights)), expected);
  EXPECT_EQ(infer_quantized_matmul(x, weights), expected);
  EXPECT_EQ(infer_quantized_matmul(x, pack(weights)), expected);
  EXPECT_EQ(infer_gather_mm(x, array::borrow(&nothing, {64, 7}, Dtype::bfloat16)), (ResultType{{3, 7}, Dtype::bfloat16}));
}

TEST(Inference, ChecksIndicesAsTheOperatorDoes) {
  const IndexedMatrices matrices = {.op = "gather_qmm", .operand = "x", .indices_name = "lhs_indices", .count = 3};
  EXPECT_EQ(checked_indices(int64s({2, 1}, {2, 0}), matrices), std::vector<std::int64_t>({2, 0}));
  expect_error("[gather_qmm] lhs_indices[1] = 3 is out of range: x has 3 matrices, so indices must lie in 0 ... 2",
               [&] { return checked_indices(int64s({2}, {0, 3}), matrices); });
}

}  // namespace
}  // namespace gqmm::test
