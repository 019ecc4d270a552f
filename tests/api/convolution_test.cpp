// depthwise_conv1d: what it refuses, and with which words. Its results are the business of tests/conformance.
#include "api_test_support.hpp"

#include <functional>

namespace gqmm::test {

using namespace detail;

namespace {

/// A call that works, to be changed in one respect: 2 sequences of 7 rows, 5 channels, 4 taps.
struct ConvCall {
  array x = Generator(1).normal({2, 7, 5});
  array weight = Generator(2).normal({5, 4, 1});
  DepthwiseConv1dOptions options;

  array operator()() const { return depthwise_conv1d(x, weight, options); }
};

void expect_refused(const std::string& message, const std::function<void(ConvCall&)>& change) {
  ConvCall call;
  change(call);
  expect_error("[depthwise_conv1d] " + message, call);
}

TEST(DepthwiseConv1dErrors, TheUnchangedCallWorks) { EXPECT_EQ(ConvCall()().shape(), (Shape{2, 4, 5})); }

TEST(DepthwiseConv1dErrors, Operands) {
  expect_refused("x has type int64; convert it to float32, float16 or bfloat16",
                 [](ConvCall& c) { c.x = int64s({2, 7, 5}, {}); });
  expect_refused("weight has type int64; convert it to float32, float16 or bfloat16",
                 [](ConvCall& c) { c.weight = int64s({5, 4, 1}, {}); });
  expect_refused("x has shape (7, 5); it must have 3 dimensions, (batch, rows, channels)",
                 [](ConvCall& c) { c.x = Generator(1).normal({7, 5}); });
  for (const Shape& shape : {Shape{5, 4}, Shape{4, 4, 1}, Shape{5, 4, 5}}) {
    expect_refused("x has shape (2, 7, 5) but weight has shape " + to_string(shape) +
                       "; it must be (5, taps, 1), a row of taps for each channel",
                   [&](ConvCall& c) { c.weight = Generator(2).normal(shape); });
  }
  expect_refused("weight has shape (5, 0, 1); it must have at least one tap for each channel",
                 [](ConvCall& c) { c.weight = Generator(2).normal({5, 0, 1}); });
}

TEST(DepthwiseConv1dErrors, Options) {
  expect_refused("stride = 0 is not in the range from 1 to 2^31 - 1", [](ConvCall& c) { c.options.stride = 0; });
  expect_refused("dilation = 2147483648 is not in the range from 1 to 2^31 - 1",
                 [](ConvCall& c) { c.options.dilation = std::int64_t{1} << 31; });
  expect_refused("padding_before = -1 is not in the range from 0 to 2^31 - 1",
                 [](ConvCall& c) { c.options.padding_before = -1; });
  expect_refused("padding_after = -2 is not in the range from 0 to 2^31 - 1", [](ConvCall& c) { c.options.padding_after = -2; });
  expect_refused(
      "x has 8 rows with its padding, but the first and the last of 4 taps with dilation 3 are 9 rows apart; pass more rows or "
      "more padding",
      [](ConvCall& c) {
        c.options.dilation = 3;
        c.options.padding_after = 1;
      });
  expect_refused("out is float32 (2, 7, 5) but the result is float32 (2, 4, 5); allocate it so",
                 [](ConvCall& c) { c.options.out = Generator(6).normal({2, 7, 5}); });
}

TEST(DepthwiseConv1dErrors, MoreRowsThan64BitsCanCount) {
  const float one = 1;
  expect_refused("(taps - 1) * dilation = 1152921504606846975 * 2147483647 exceeds 64 bits; split the call", [&](ConvCall& c) {
    c.x = array::borrow(&one, {1, 1, 1}, Dtype::float32, {0, 0, 0});
    c.weight = array::borrow(&one, {1, std::int64_t{1} << 60, 1}, Dtype::float32, {0, 0, 0});
    c.options.dilation = 2147483647;
  });
  expect_refused(
      "x has shape (0, 9223372036854775807, 5) and 3 rows of padding, together more rows than 64 bits can count; pass less "
      "padding",
      [](ConvCall& c) {
        c.x = array::empty({0, std::numeric_limits<std::int64_t>::max(), 5}, Dtype::float32);
        c.options.padding_before = 3;
      });
}

TEST(DepthwiseConv1dErrors, MemoryThatOverlaps) {
  std::vector<float> memory(70);
  for (const bool overlaps_x : {true, false}) {
    expect_refused(std::string("out overlaps the memory of ") + (overlaps_x ? "x" : "weight") + "; pass memory of its own",
                   [&](ConvCall& c) {
                     (overlaps_x ? c.x : c.weight) =
                         array::borrow(memory.data(), overlaps_x ? Shape{2, 7, 5} : Shape{5, 4, 1}, Dtype::float32);
                     c.options.out = array::borrow_mut(memory.data(), {2, 4, 5}, Dtype::float32);
                   });
  }
}

TEST(DepthwiseConv1d, ShapeAndTypeOfTheResult) {
  ConvCall call;
  call.options = {.stride = 2, .padding_before = 3, .padding_after = 1, .dilation = 2};
  EXPECT_EQ(infer_depthwise_conv1d(call.x, call.weight, call.options), (ResultType{{2, 3, 5}, Dtype::float32}));
  EXPECT_EQ(call().shape(), (Shape{2, 3, 5}));
  call.x = array::empty({2, 7, 5}, Dtype::bfloat16);
  EXPECT_EQ(infer_depthwise_conv1d(call.x, call.weight).dtype, Dtype::float32);
  call.weight = array::empty({5, 4, 1}, Dtype::bfloat16);
  EXPECT_EQ(infer_depthwise_conv1d(call.x, call.weight).dtype, Dtype::bfloat16);
}

TEST(DepthwiseConv1d, WithoutSequencesChannelsOrRows) {
  ConvCall call;
  call.x = Generator(1).normal({0, 7, 5});
  EXPECT_EQ(call().shape(), (Shape{0, 4, 5}));
  call.x = Generator(1).normal({2, 7, 0});
  call.weight = Generator(1).normal({0, 4, 1});
  EXPECT_EQ(call().shape(), (Shape{2, 4, 0}));
  call = ConvCall();
  call.x = Generator(1).normal({2, 0, 5});
  call.options.padding_before = 5;
  const array zeros = call();
  EXPECT_EQ(zeros.shape(), (Shape{2, 2, 5}));
  for (std::int64_t i = 0; i < zeros.size(); ++i) {
    EXPECT_EQ(zeros.data<float>()[i], 0);
  }
}

}  // namespace
}  // namespace gqmm::test
