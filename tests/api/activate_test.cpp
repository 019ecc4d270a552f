// activate and moe_combine: shapes, types, the `out` option, and errors. tests/conformance/activate_test.cpp has the values.
#include "api_test_support.hpp"

#include <cmath>
#include <optional>

namespace gqmm::test {
namespace {

constexpr float nan = std::numeric_limits<float>::quiet_NaN();
constexpr float infinity = std::numeric_limits<float>::infinity();

class Activate : public testing::Test {
 protected:
  array gate = Generator(1).normal({2, 3}, Dtype::bfloat16);
  std::optional<array> up = Generator(2).normal({2, 3}, Dtype::bfloat16);
  ActivateOptions options;
  void expect(const std::string& message, const Activation& activation = SwiGLU{}) {
    expect_error(message, [&] { return activate(gate, up, activation, options); });
  }
};

TEST_F(Activate, HasTheShapeAndTypeOfGate) {
  for (const Shape& shape : {Shape{}, Shape{5}, Shape{2, 3}, Shape{2, 1, 0, 3}, Shape{1, 2, 3, 4, 5}}) {
    for (const Dtype dtype : {Dtype::float32, Dtype::float16, Dtype::bfloat16}) {
      const array x = Generator(3).normal(shape, dtype);
      const array h = activate(x, x, SwiGLU{});
      EXPECT_EQ(h.shape(), shape);
      EXPECT_EQ(h.dtype(), dtype);
      EXPECT_EQ(activate(x, std::nullopt, SiLU{}).shape(), shape);
    }
  }
}

TEST_F(Activate, TheDefaultSwigluIsSiluTimesUp) {
  const std::vector<float> h = values_of(activate(floats({3}, {0.5F, -2, 10}), floats({3}, {2, 3, -1}), SwiGLU{}));
  const std::vector<float> silu = values_of(activate(floats({3}, {0.5F, -2, 10}), std::nullopt, SiLU{}));
  EXPECT_EQ(h, (std::vector<float>{2 * silu[0], 3 * silu[1], -silu[2]}));
}

TEST_F(Activate, GatedActivationsNeedUpAndOthersRefuseIt) {
  expect(
      "[activate] up of shape (2, 3) is given but ReLU2 is not gated; leave it out, or use an activation with a gate such as "
      "SwiGLU",
      ReLU2{});
  up.reset();
  expect("[activate] up is missing but SiTU is gated; pass it, or use an activation without a gate such as SiLU",
         SiTU{.beta = 1.0F});
  for (const Activation& activation : {Activation(SwiGLU{}), Activation(GeGLU{}), Activation(SwiGLUStep{.limit = 1.0F})}) {
    EXPECT_TRUE(is_gated(activation));
    EXPECT_THROW((void)activate(gate, up, activation), std::invalid_argument);
  }
  for (const Activation& activation : {Activation(SiLU{}), Activation(GELU{}), Activation(ReLU2{})}) {
    EXPECT_FALSE(is_gated(activation));
    EXPECT_NO_THROW((void)activate(gate, up, activation));
  }
}

TEST_F(Activate, OperandsHaveOneShapeAndOneComputeType) {
  up = Generator(2).normal({1, 3}, Dtype::bfloat16);
  expect("[activate] gate is bfloat16 (2, 3) but up is bfloat16 (1, 3); both must have one shape and one type");
  up = Generator(2).normal({2, 3}, Dtype::float32);
  expect("[activate] gate is bfloat16 (2, 3) but up is float32 (2, 3); both must have one shape and one type");
  up = int64s({2, 3}, {0, 0, 0, 0, 0, 0});
  expect("[activate] up has type int64; convert it to float32, float16 or bfloat16");
  gate = *up;
  expect("[activate] gate has type int64; convert it to float32, float16 or bfloat16");
}

TEST_F(Activate, StreamsAreChecked) {
  options.stream.threads = -1;
  expect("[activate] stream.threads = -1 is negative; use 0 for as many as the machine grants");
}

TEST(Activations, WrongConstantsAreErrors) {
  const std::pair<Activation, std::string> wrong[] = {
      {SwiGLU{.alpha = nan}, "[op] alpha = nan of SwiGLU is not a positive finite float32; use 1 for silu"},
      {SwiGLU{.alpha = 0}, "[op] alpha = 0 of SwiGLU is not a positive finite float32; use 1 for silu"},
      {SwiGLU{.limit = -7.0F}, "[op] limit = -7 of SwiGLU is not a positive finite float32; leave it out to clip nothing"},
      {SwiGLU{.limit = nan}, "[op] limit = nan of SwiGLU is not a positive finite float32; leave it out to clip nothing"},
      {SwiGLU{.bias = infinity}, "[op] bias = inf of SwiGLU is not finite; use 0 for none"},
      {SiTU{}, "[op] beta = 0 of SiTU is not a positive finite float32; give the model's"},
      {SiTU{.beta = 1, .linear_beta = -1.0F},
       "[op] linear_beta = -1 of SiTU is not a positive finite float32; leave it out to take up as it is"},
      {SwiGLUStep{},
       "[op] limit = 0 of SwiGLUStep is not a positive finite float32; give the model's, or use SwiGLU to clip nothing"},
      {GeGLU{.approximate = static_cast<GeluApproximation>(2)},
       "[op] approximate = 2 of GeGLU is not a value of GeluApproximation; use none or tanh"},
      {GELU{.approximate = static_cast<GeluApproximation>(9)},
       "[op] approximate = 9 of GELU is not a value of GeluApproximation; use none or tanh"},
  };
  const array one = floats({1}, {1});
  for (const auto& [activation, message] : wrong) {
    expect_error(message, [&] {
      check_activation(activation, "op");
      return 0;
    });
    EXPECT_THROW((void)activate(one, is_gated(activation) ? std::optional(one) : std::nullopt, activation),
                 std::invalid_argument);
  }
  expect_error("[op] approximate = \"fast\" is unknown; use \"none\" or \"tanh\"",
               [] { return gelu_approximation_from_name("fast", "op"); });
  EXPECT_EQ(gelu_approximation_from_name("tanh", "op"), GeluApproximation::tanh);
  EXPECT_EQ(gelu_approximation_from_name("none", "op"), GeluApproximation::none);
}

class MoeCombine : public testing::Test {
 protected:
  array slots = Generator(1).normal({2, 3, 5});
  array weights = Generator(2).normal({2, 3}, Dtype::bfloat16);
  MoeCombineOptions options;
  void expect(const std::string& message) {
    expect_error(message, [&] { return moe_combine(slots, weights, options); });
  }
};

TEST_F(MoeCombine, HasTheShapeAndTypeOfSlotsWithoutK) {
  for (const Shape& leading : {Shape{}, Shape{4}, Shape{2, 3}, Shape{0}}) {
    for (const std::int64_t k : {0, 1, 9}) {
      Shape weight_shape = leading;
      weight_shape.push_back(k);
      Shape slot_shape = weight_shape;
      slot_shape.push_back(7);
      Shape result = leading;
      result.push_back(7);
      const array y = moe_combine(Generator(1).normal(slot_shape, Dtype::float16), Generator(2).normal(weight_shape));
      EXPECT_EQ(y.shape(), result);
      EXPECT_EQ(y.dtype(), Dtype::float16);
    }
  }
}

TEST_F(MoeCombine, NoSlotsGiveZeros) {
  options.out = floats({2, 3}, {nan, 1, 2, 3, 4, 5});
  const array y = moe_combine(array::empty({2, 0, 3}, Dtype::float32), array::empty({2, 0}, Dtype::float32), options);
  EXPECT_EQ(y.bytes(), options.out->bytes());
  EXPECT_EQ(memory_of(y), std::string(24, '\0'));
}

TEST_F(MoeCombine, AddsInTheOrderOfTheSlots) {
  const array y = moe_combine(floats({3, 2}, {1e8F, -0.0F, 1, -0.0F, -1e8F, -0.0F}), floats({3}, {1, 1, 1}));
  EXPECT_EQ(values_of(y), (std::vector<float>{0, 0}));
  EXPECT_FALSE(std::signbit(values_of(y)[1])) << "the sum starts as +0";
}

TEST_F(MoeCombine, ShapesAndTypesAreChecked) {
  weights = Generator(2).normal({2, 1});
  expect("[moe_combine] slots has shape (2, 3, 5) but topk_weights has shape (2, 1); it must be (2, 3), a weight for each slot");
  weights = int64s({2, 3}, {0, 0, 0, 0, 0, 0});
  expect("[moe_combine] topk_weights has type int64; convert it to float32, float16 or bfloat16");
  slots = int64s({1}, {0});
  expect("[moe_combine] slots has type int64; convert it to float32, float16 or bfloat16");
  slots = floats({5}, {1, 2, 3, 4, 5});
  weights = floats({}, {1});
  expect("[moe_combine] slots of shape (5,) has fewer than two dimensions; pass (…, k, H), a row for each slot of a token");
}

TEST_F(MoeCombine, WritesToTheCallersMemory) {
  const array expected = moe_combine(slots, weights);
  options.out = array::empty({2, 5}, Dtype::float32);
  const array y = moe_combine(slots, weights, options);
  EXPECT_EQ(y.bytes(), options.out->bytes());
  EXPECT_EQ(memory_of(y), memory_of(expected));
}

TEST_F(MoeCombine, OutIsChecked) {
  options.out = array::empty({2, 4}, Dtype::float32);
  expect("[moe_combine] out is float32 (2, 4) but the result is float32 (2, 5); allocate it so");
  options.out = array::borrow(slots.bytes(), {2, 5}, Dtype::float32);
  expect("[moe_combine] out is read-only; make it with array::empty or array::borrow_mut");
  options.out = array::borrow_mut(slots.mutable_bytes() + 4, {2, 5}, Dtype::float32);
  expect("[moe_combine] out overlaps the memory of slots; pass memory of its own");
  weights = array::borrow(options.out->bytes(), {2, 3}, Dtype::float32);
  slots = Generator(1).normal({2, 3, 5});
  expect("[moe_combine] out overlaps the memory of topk_weights; pass memory of its own");
}

}  // namespace
}  // namespace gqmm::test
