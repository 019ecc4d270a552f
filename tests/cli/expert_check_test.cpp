#include "cli/expert_check.hpp"

#include "cli/scale_check.hpp"
#include "cpu/backend.hpp"
#include "io/checkpoint.hpp"

#include <gqmm/ops.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

namespace gqmm::cli {

using namespace detail;

namespace {

/// 32 experts, N = 128, K = 256.
io::QuantizedTensor expert_tensor() {
  for (io::QuantizedTensor& tensor : io::quantized_tensors(io::open_checkpoint(GQMM_TEST_MODEL))) {
    if (tensor.name == "model.layers.1.mlp.switch_mlp.up_proj") {
      return tensor;
    }
  }
  throw std::runtime_error("the model has changed");
}

constexpr CheckSettings every_output = {.samples = 1 << 20, .seed = 3};

void expect_passed(const CheckResult& result) {
  EXPECT_TRUE(result.passed()) << "worst " << result.worst.fraction << ", unwritten " << result.unwritten;
}

TEST(ExpertCheck, TheLibraryPassesOnEveryOutputOfTheRealModel) {
  const CheckResult result = check_tensor(expert_tensor(), Dtype::bfloat16, every_output);
  expect_passed(result);
  EXPECT_EQ(result.compared, result.outputs);
  EXPECT_EQ(result.outputs, (32 + 37 + 1) * 128);
  EXPECT_GT(result.worst.fraction, 0.0) << "nothing rounds without any error";
}

TEST(ExpertCheck, AWrongOutputFailsAtItsPlace) {
  const RandomProduct product = make_product(expert_tensor(), Dtype::float32, every_output);
  cpu::run(product.problem);
  auto* y = reinterpret_cast<float*>(product.problem.y);
  float& output = y[41 * 128 + 97];
  const CheckResult before = compare_with_reference(product.problem, every_output);
  expect_passed(before);
  for (const float wrong : {output + 1e-2F, std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    output = wrong;
    const CheckResult result = compare_with_reference(product.problem, every_output);
    EXPECT_FALSE(result.passed());
    EXPECT_EQ(result.worst.row, 41);
    EXPECT_EQ(result.worst.n, 97);
    EXPECT_EQ(result.worst.expert, product.problem.rhs[41]);
    EXPECT_GT(result.worst.fraction, 1.0);
  }
}

TEST(ExpertCheck, AnUnwrittenOutputFailsEvenOutsideTheSample) {
  const CheckSettings few = {.samples = 1};
  const RandomProduct product = make_product(expert_tensor(), Dtype::bfloat16, few);
  EXPECT_EQ(compare_with_reference(product.problem, few).unwritten, (32 + 37 + 1) * 128);
  std::vector<std::byte> poisoned(product.problem.y, product.problem.y + 2);
  cpu::run(product.problem);
  std::copy(poisoned.begin(), poisoned.end(), product.problem.y + 2 * 555);
  const CheckResult result = compare_with_reference(product.problem, few);
  EXPECT_EQ(result.unwritten, 1);
  EXPECT_FALSE(result.passed());
}

TEST(ExpertCheck, ASampleTouchesEveryRow) {
  const CheckSettings settings = {.samples = 70};
  const RandomProduct product = make_product(expert_tensor(), Dtype::float32, settings);
  cpu::run(product.problem);
  auto* y = reinterpret_cast<float*>(product.problem.y);
  std::fill(y + 13 * 128, y + 14 * 128, 1e6F);
  const CheckResult result = compare_with_reference(product.problem, settings);
  EXPECT_EQ(result.compared, 70);
  EXPECT_EQ(result.worst.row, 13);
}

/// Two experts of N = 32, K = 64 in nvfp4. Only their global scales differ, so that the second has twice the first's weights.
io::QuantizedTensor nvfp4_tensor() {
  const std::vector<float> halves(2 * 32 * 64, 0.5F);
  QuantizeOptions options;
  options.mode = Mode::nvfp4;
  io::QuantizedTensor tensor;
  tensor.name = "l";
  tensor.weights = quantize(array::borrow(halves, {2, 32, 64}), options);
  tensor.experts = 2;
  tensor.N = 32;
  tensor.K = 64;
  return tensor;
}

TEST(ExpertCheck, TheGlobalScaleIsPartOfTheProduct) {
  io::QuantizedTensor tensor = nvfp4_tensor();
  const float scales[] = {2688.0F, 5376.0F};
  tensor.weights.global_scale = array::borrow(scales, {2}, Dtype::float32);
  const RandomProduct product = make_product(tensor, Dtype::float32, every_output);
  cpu::run(product.problem);
  expect_passed(compare_with_reference(product.problem, every_output));
  tensor.weights.global_scale.reset();
  const RandomProduct plain = make_product(tensor, Dtype::float32, every_output);
  cpu::run(plain.problem);
  const auto* with = reinterpret_cast<const float*>(product.problem.y);
  const auto* without = reinterpret_cast<const float*>(plain.problem.y);
  for (std::size_t row = 0; row < product.problem.rhs.size(); ++row) {
    const float factor = product.problem.rhs[row] == 0 ? 1.0F : 2.0F;
    EXPECT_FLOAT_EQ(with[row * 32], factor * without[row * 32]) << row;
  }
}

TEST(ExpertCheck, ValuesThatAreNotFiniteAreFoundInEveryArray) {
  io::QuantizedTensor tensor = expert_tensor();
  EXPECT_TRUE(find_not_finite(tensor).empty());
  std::vector<std::uint16_t> biases(static_cast<std::size_t>(tensor.weights.biases->size()));
  biases[1027] = 0xff80;  // minus infinity in bfloat16
  tensor.weights.biases = array::borrow(biases.data(), tensor.weights.biases->shape(), Dtype::bfloat16);
  const auto found = find_not_finite(tensor);
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(describe(found[0]), "1 of 16384 biases are NaN or infinite, the first at (2, 0, 3)");

  io::QuantizedTensor scaled = nvfp4_tensor();
  std::vector<std::uint8_t> scales(2 * 32 * 4, 0x38);
  scales.back() = 0xff;
  const float global[] = {1.0F, std::numeric_limits<float>::quiet_NaN()};
  scaled.weights.scales = array::borrow(scales.data(), {2, 32, 4}, Dtype::uint8);
  scaled.weights.global_scale = array::borrow(global, {2}, Dtype::float32);
  const auto both = find_not_finite(scaled);
  ASSERT_EQ(both.size(), 2U);
  EXPECT_EQ(describe(both[0]), "1 of 256 scales are NaN or infinite, the first at (1, 31, 3)");
  EXPECT_EQ(describe(both[1]), "1 of 2 values of global_scale are NaN or infinite, the first at (1,)");
}

TEST(ExpertCheck, TheSameSeedGivesTheSameCheck) {
  const auto worst = [](std::uint64_t seed) {
    const CheckResult result = check_tensor(expert_tensor(), Dtype::float32, {.samples = 100, .seed = seed});
    return std::tuple(result.worst.row, result.worst.n, result.worst.value);
  };
  EXPECT_EQ(worst(1), worst(1));
  EXPECT_NE(worst(1), worst(2));
}

}  // namespace
}  // namespace gqmm::cli
