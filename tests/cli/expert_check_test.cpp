#include "cli/expert_check.hpp"

#include "cpu/backend.hpp"
#include "io/checkpoint.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

namespace gqmm::cli {
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
  const Lowered product = make_product(expert_tensor(), Dtype::float32, every_output);
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
  const Lowered product = make_product(expert_tensor(), Dtype::bfloat16, few);
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
  const Lowered product = make_product(expert_tensor(), Dtype::float32, settings);
  cpu::run(product.problem);
  auto* y = reinterpret_cast<float*>(product.problem.y);
  std::fill(y + 13 * 128, y + 14 * 128, 1e6F);
  const CheckResult result = compare_with_reference(product.problem, settings);
  EXPECT_EQ(result.compared, 70);
  EXPECT_EQ(result.worst.row, 13);
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
