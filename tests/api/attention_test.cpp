// scaled_dot_product_attention and its sibling over quantized keys and values: what they refuse, and with which words. Their
// results are the business of tests/conformance.
#include "api_test_support.hpp"

#include <functional>
#include <limits>

namespace gqmm::test {

using namespace detail;

namespace {

/// A call that works, to be changed in one respect: 2 sequences, 4 heads of q, 2 of k and v, 3 queries, 5 keys, D = 8, Dv = 6.
struct AttentionCall {
  array q = Generator(1).normal({2, 4, 3, 8});
  array k = Generator(2).normal({2, 2, 5, 8});
  array v = Generator(3).normal({2, 2, 5, 6});
  float scale = 0.5F;
  AttentionOptions options;

  [[nodiscard]] array operator()() const { return scaled_dot_product_attention(q, k, v, scale, options); }
};

void expect_refused(const std::string& message, const std::function<void(AttentionCall&)>& change) {
  AttentionCall call;
  change(call);
  expect_error("[scaled_dot_product_attention] " + message, call);
}

TEST(AttentionErrors, TheUnchangedCallWorks) { EXPECT_EQ(AttentionCall()().shape(), (Shape{2, 4, 3, 6})); }

TEST(AttentionErrors, Operands) {
  expect_refused("q has type int64; convert it to float32, float16 or bfloat16",
                 [](AttentionCall& c) { c.q = int64s({2, 4, 3, 8}, {}); });
  expect_refused("k has shape (2, 5, 8); it must have four dimensions, (batch, heads, length, depth)",
                 [](AttentionCall& c) { c.k = Generator(2).normal({2, 5, 8}); });
  expect_refused("v has shape (2, 2, 5, 0); its last dimension must be 1 … 1048576",
                 [](AttentionCall& c) { c.v = Generator(2).normal({2, 2, 5, 0}); });
  expect_refused("q, k and v have batches of 2, 1 and 2; they must be equal",
                 [](AttentionCall& c) { c.k = Generator(2).normal({1, 2, 5, 8}); });
  expect_refused("q has shape (2, 4, 3, 8) but k has shape (2, 2, 5, 7); their last dimensions must be equal",
                 [](AttentionCall& c) { c.k = Generator(2).normal({2, 2, 5, 7}); });
  expect_refused("k has shape (2, 2, 5, 8) but v has shape (2, 2, 4, 6); heads and lengths must be equal",
                 [](AttentionCall& c) { c.v = Generator(2).normal({2, 2, 4, 6}); });
  expect_refused("q has 3 heads but k and v have 2; q must have a multiple of them",
                 [](AttentionCall& c) { c.q = Generator(2).normal({2, 3, 3, 8}); });
  expect_refused("scale = inf is not finite; pass a number such as 1 / sqrt(8)",
                 [](AttentionCall& c) { c.scale = std::numeric_limits<float>::infinity(); });
}

TEST(AttentionErrors, Options) {
  expect_refused("mask is int64; it must be bool, float16, bfloat16 or float32",
                 [](AttentionCall& c) { c.options.mask = int64s({3, 5}, {}); });
  expect_refused("mask of shape (3, 4) does not broadcast to (2, 4, 3, 5), (batch, heads of q, queries, keys)",
                 [](AttentionCall& c) { c.options.mask = Generator(4).normal({3, 4}); });
  expect_refused("sinks has shape (2,); it must be (4,), a score for each head of q",
                 [](AttentionCall& c) { c.options.sinks = Generator(4).normal({2}); });
  expect_refused("origin has type float32; convert it to an integer type",
                 [](AttentionCall& c) { c.options.origin = Generator(4).normal({2}); });
  expect_refused("origin has shape (1,); it must be (2,), an index for each batch element",
                 [](AttentionCall& c) { c.options.origin = int64s({1}, {0}); });
  expect_refused("origin[1] = -9223372036854775808 is not within ±2^62; pass the index of the key at position 0",
                 [](AttentionCall& c) { c.options.origin = int64s({2}, {0, std::numeric_limits<std::int64_t>::min()}); });
  expect_refused("out is float32 (2, 4, 3, 8) but the result is float32 (2, 4, 3, 6); allocate it so",
                 [](AttentionCall& c) { c.options.out = Generator(5).normal({2, 4, 3, 8}); });
}

TEST(Attention, WithoutQueriesOrKeys) {
  AttentionCall call;
  call.q = Generator(1).normal({2, 4, 0, 8});
  EXPECT_EQ(call().shape(), (Shape{2, 4, 0, 6}));
  call = AttentionCall();
  call.k = Generator(1).normal({2, 2, 0, 8});
  call.v = Generator(1).normal({2, 2, 0, 6});
  const array y = call();
  for (std::int64_t i = 0; i < y.size(); ++i) {
    EXPECT_EQ(y.data<float>()[i], 0);
  }
  call = AttentionCall();
  call.q = Generator(1).normal({0, 4, 3, 8});
  call.k = Generator(1).normal({0, 2, 5, 8});
  call.v = Generator(1).normal({0, 2, 5, 6});
  EXPECT_EQ(call().size(), 0);
}

TEST(Attention, TheTypeOfTheResult) {
  AttentionCall call;
  call.q = array::empty({2, 4, 3, 8}, Dtype::bfloat16);
  call.k = array::empty({2, 2, 5, 8}, Dtype::bfloat16);
  call.v = array::empty({2, 2, 5, 6}, Dtype::bfloat16);
  EXPECT_EQ(call().dtype(), Dtype::bfloat16);
  call.v = array::empty({2, 2, 5, 6}, Dtype::float16);
  EXPECT_EQ(call().dtype(), Dtype::float32);
}

/// The same over quantized keys and values of 8 bits: D = 64, Dv = 32, in groups of 32.
struct QuantizedCall {
  array q = Generator(1).normal({2, 4, 3, 64});
  QuantizedWeights keys = quantize(Generator(2).normal({2, 2, 5, 64}), {.group_size = 32, .bits = 8});
  QuantizedWeights values = quantize(Generator(3).normal({2, 2, 5, 32}), {.group_size = 32, .bits = 8});
  float scale = 0.5F;
  QuantizedAttentionOptions options;

  [[nodiscard]] array operator()() const { return quantized_scaled_dot_product_attention(q, keys, values, scale, options); }
};

void expect_quantized_refused(const std::string& message, const std::function<void(QuantizedCall&)>& change) {
  QuantizedCall call;
  change(call);
  expect_error("[quantized_scaled_dot_product_attention] " + message, call);
}

TEST(QuantizedAttentionErrors, TheUnchangedCallWorks) { EXPECT_EQ(QuantizedCall()().shape(), (Shape{2, 4, 3, 32})); }

TEST(QuantizedAttentionErrors, Operands) {
  expect_quantized_refused("q has type int64; convert it to float32, float16 or bfloat16",
                           [](QuantizedCall& c) { c.q = int64s({2, 4, 3, 64}, {}); });
  expect_quantized_refused("q_keys has mode \"mxfp8\"; quantize it with mode \"affine\"", [](QuantizedCall& c) {
    c.keys = quantize(Generator(2).normal({2, 2, 5, 64}), {.mode = Mode::mxfp8});
  });
  expect_quantized_refused("q_values has transpose = false; its groups must lie along the depth, so set transpose = true",
                           [](QuantizedCall& c) { c.values.transpose = false; });
  expect_quantized_refused(
      "q_keys has codes of shape (2, 5, 16); they must have four dimensions, (batch, heads, length, words)",
      [](QuantizedCall& c) { c.keys = quantize(Generator(2).normal({2, 5, 64}), {.group_size = 32, .bits = 8}); });
  expect_quantized_refused("q has shape (2, 4, 3, 64) but q_keys of 4 bits has shape (2, 2, 5, 128); bits = 8 would fit",
                           [](QuantizedCall& c) {
                             c.keys.bits = 4;
                             c.keys.scales = c.keys.biases.emplace(Generator(2).normal({2, 2, 5, 4}));
                           });
  expect_quantized_refused(
      "q has shape (2, 4, 3, 40) but q_keys of 8 bits has shape (2, 2, 5, 64); their last dimensions must be equal",
      [](QuantizedCall& c) { c.q = Generator(1).normal({2, 4, 3, 40}); });
  expect_quantized_refused("q_values: biases is missing; mode \"affine\" needs it: pass the third array that quantize returns",
                           [](QuantizedCall& c) { c.values.biases.reset(); });
  expect_quantized_refused(
      "q_keys: scales has shape (2, 2, 5, 2) but w of shape (2, 2, 5, 16) with bits = 8 and group_size = 64 needs (2, 2, 5, 1); "
      "group_size = 32 would fit",
      [](QuantizedCall& c) { c.keys.group_size = 64; });
  expect_quantized_refused(
      "q_keys has shape (2, 2, 5, 64) but q_values has shape (2, 2, 4, 32); heads and lengths must be equal",
      [](QuantizedCall& c) { c.values = quantize(Generator(3).normal({2, 2, 4, 32}), {.group_size = 32, .bits = 8}); });
  expect_quantized_refused("q, q_keys and q_values have batches of 3, 2 and 2; they must be equal",
                           [](QuantizedCall& c) { c.q = Generator(1).normal({3, 4, 3, 64}); });
}

TEST(QuantizedAttentionErrors, Options) {
  expect_quantized_refused("mask of shape (3, 4) does not broadcast to (2, 4, 3, 5), (batch, heads of q, queries, keys)",
                           [](QuantizedCall& c) { c.options.mask = Generator(4).normal({3, 4}); });
  expect_quantized_refused("origin has shape (1,); it must be (2,), an index for each batch element",
                           [](QuantizedCall& c) { c.options.origin = int64s({1}, {0}); });
  expect_quantized_refused("out is float32 (2, 4, 3, 64) but the result is float32 (2, 4, 3, 32); allocate it so",
                           [](QuantizedCall& c) { c.options.out = Generator(5).normal({2, 4, 3, 64}); });
}

TEST(QuantizedAttention, WithoutKeys) {
  QuantizedCall call;
  call.keys = quantize(Generator(2).normal({2, 2, 0, 64}), {.group_size = 32, .bits = 8});
  call.values = quantize(Generator(3).normal({2, 2, 0, 32}), {.group_size = 32, .bits = 8});
  for (const float y : values_of(call())) {
    EXPECT_EQ(y, 0);
  }
}

TEST(QuantizedAttention, TheTypeOfTheResult) {
  QuantizedCall call;
  call.q = Generator(1).normal({2, 4, 3, 64}, Dtype::bfloat16);
  EXPECT_EQ(call().dtype(), Dtype::float32);
  call.keys = quantize(Generator(2).normal({2, 2, 5, 64}, Dtype::bfloat16), {.group_size = 32, .bits = 8});
  call.values = quantize(Generator(3).normal({2, 2, 5, 32}, Dtype::bfloat16), {.group_size = 32, .bits = 4});
  EXPECT_EQ(call().dtype(), Dtype::bfloat16);
}

}  // namespace
}  // namespace gqmm::test
