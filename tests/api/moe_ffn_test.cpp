// moe_ffn: what it refuses, and with which words. Its results are the business of tests/conformance/moe_test.cpp.
#include "api_test_support.hpp"

#include <algorithm>
#include <functional>
#include <string>
#include <utility>

namespace gqmm::test {

using namespace detail;

namespace {

/// A call that works, to be changed in one respect: 3 tokens, k = 2, 4 experts, H = 64, I = 32.
struct MoeCall {
  array x = Generator(1).normal({3, 64});
  array ids = int64s({3, 2}, {0, 1, 3, 3, 2, 0});
  std::optional<array> weights = Generator(2).normal({3, 2});
  ExpertWeights gate = static_cast<QuantizedWeights>(affine_weights(3, {4}, 32, 64));
  std::optional<ExpertWeights> up = static_cast<QuantizedWeights>(affine_weights(4, {4}, 32, 64));
  ExpertWeights down = static_cast<QuantizedWeights>(affine_weights(5, {4}, 64, 32));
  MoeFfnOptions options;

  [[nodiscard]] array operator()() const { return moe_ffn(x, ids, weights, gate, up, down, options); }
};

void expect_refused(const std::string& message, const std::function<void(MoeCall&)>& change) {
  MoeCall call;
  change(call);
  expect_error("[moe_ffn] " + message, call);
}

TEST(MoeFfnErrors, TheUnchangedCallWorks) { EXPECT_EQ(MoeCall()().shape(), (Shape{3, 64})); }

TEST(MoeFfnErrors, Rows) {
  expect_refused("x has type int64; convert it to float32, float16 or bfloat16", [](MoeCall& c) { c.x = int64s({3, 64}, {}); });
  expect_refused(
      "x has shape (2, 64) but topk_ids has shape (3, 2); they must agree but for the last dimension, which is k for "
      "topk_ids",
      [](MoeCall& c) { c.x = Generator(1).normal({2, 64}); });
  expect_refused("topk_ids has shape (3, 2) but topk_weights has shape (3, 1); pass a weight for each id",
                 [](MoeCall& c) { c.weights = Generator(2).normal({3, 1}); });
  expect_refused("topk_ids has type float32; convert it to an integer type",
                 [](MoeCall& c) { c.ids = Generator(2).normal({3, 2}); });
  expect_refused("topk_ids[1, 1] = 4 is out of range: gate has 4 matrices, so indices must lie in 0 ... 3",
                 [](MoeCall& c) { c.ids = int64s({3, 2}, {0, 1, 3, 4, 2, 0}); });
  expect_refused("topk_ids[0, 1] = -1 is out of range: gate has 4 matrices, so indices must lie in 0 ... 3",
                 [](MoeCall& c) { c.ids = int64s({3, 2}, {0, -1, 3, 4, 2, 0}); });
  expect_refused("shared needs topk_weights: without them the result is the slots of the routed experts; pass topk_weights",
                 [](MoeCall& c) {
                   c.weights.reset();
                   c.options.shared = SharedExperts{.gate = c.gate, .up = c.up, .down = c.down};
                 });
  expect_refused(
      "router_weight_on_input = true needs topk_weights: without them the result is the slots of the routed experts; "
      "pass topk_weights",
      [](MoeCall& c) {
        c.weights.reset();
        c.options.router_weight_on_input = true;
      });
}

TEST(MoeFfnErrors, IdsCanBeCheckedAlone) {
  const MoeCall call;
  check_topk_ids(call.ids, call.gate);
  const array missing = int64s({1, 2}, {-1, 3});
  check_topk_ids(missing, call.gate, {.missing = Missing::zero});
  check_topk_ids(int64s({1, 2}, {11, 99}), call.gate, {.local_experts = LocalExperts{.first = 10, .count = 4}});
  expect_error("[moe_ffn] topk_ids[0, 0] = -1 is out of range: gate has 4 matrices, so indices must lie in 0 ... 3",
               [&] { check_topk_ids(missing, Generator(3).normal({4, 32, 64})); });
}

TEST(MoeFfnErrors, Layers) {
  expect_refused("gate has shape (4, 32, 32); it must be (4, 32, 64), since rows of x have H = 64 and gate has shape (4, 32, 32)",
                 [](MoeCall& c) { c.gate = static_cast<QuantizedWeights>(affine_weights(3, {4}, 32, 32)); });
  expect_refused("up has shape (4, 64, 64); it must be (4, 32, 64), since rows of x have H = 64 and gate has shape (4, 32, 64)",
                 [](MoeCall& c) { c.up = static_cast<QuantizedWeights>(affine_weights(3, {4}, 64, 64)); });
  expect_refused("down has shape (3, 64, 32); it must be (4, 64, 32), since rows of x have H = 64 and gate has shape (4, 32, 64)",
                 [](MoeCall& c) { c.down = static_cast<QuantizedWeights>(affine_weights(3, {3}, 64, 32)); });
  expect_refused("gate has shape (32, 64); it must have three dimensions, (E, outputs, inputs)",
                 [](MoeCall& c) { c.gate = static_cast<QuantizedWeights>(affine_weights(3, {}, 32, 64)); });
  expect_refused("down: the dense array has type int64; convert it to float32, float16 or bfloat16",
                 [](MoeCall& c) { c.down = int64s({4, 64, 32}, {}); });
  expect_refused("up: scales is missing; pass the second array that quantize returns", [](MoeCall& c) {
    QuantizedWeights weights;
    weights.w = std::get<QuantizedWeights>(*c.up).w;
    c.up = weights;
  });
  expect_refused(
      "gate has 33 outputs, but without up it holds gate and up, an even number; pass up, or an activation that is not "
      "gated",
      [](MoeCall& c) {
        c.gate = static_cast<QuantizedWeights>(affine_weights(3, {4}, 33, 64));
        c.up.reset();
      });
}

TEST(MoeFfnErrors, Forms) {
  expect_refused("up is given but SiLU is not gated; leave up out, or use a gated activation",
                 [](MoeCall& c) { c.options.activation = SiLU(); });
  expect_refused("up_bias is given but up is not; a gate that holds both has one bias for both, gate_bias", [](MoeCall& c) {
    c.gate = static_cast<QuantizedWeights>(affine_weights(3, {4}, 64, 64));
    c.up.reset();
    c.options.up_bias = Generator(1).normal({4, 32});
  });
  expect_refused("up_bias is given but up is not; an activation that is not gated has no up", [](MoeCall& c) {
    c.up.reset();
    c.options.activation = ReLU2();
    c.options.up_bias = Generator(1).normal({4, 32});
  });
  expect_refused("limit = -1 of SwiGLU is not a positive finite float32; leave it out to clip nothing",
                 [](MoeCall& c) { c.options.activation = SwiGLU{.limit = -1.0F}; });
  expect_refused("gate_bias has shape (4, 64); it must be (4, 32), a value for each output of gate",
                 [](MoeCall& c) { c.options.gate_bias = Generator(1).normal({4, 64}); });
  expect_refused("down_bias has shape (64,); it must be (4, 64), a value for each output of down",
                 [](MoeCall& c) { c.options.down_bias = Generator(1).normal({64}); });
}

TEST(MoeFfnErrors, LocalExperts) {
  expect_refused("local_experts = (8, 3) but gate has 4 experts; the count must be that of the weights",
                 [](MoeCall& c) { c.options.local_experts = LocalExperts{.first = 8, .count = 3}; });
  expect_refused("local_experts = (-4, 4) has a negative number; pass the first expert and how many there are",
                 [](MoeCall& c) { c.options.local_experts = LocalExperts{.first = -4, .count = 4}; });
  // A negative id follows `missing`, whatever the range.
  MoeCall call;
  call.options.local_experts = LocalExperts{.first = 2, .count = 4};
  EXPECT_NO_THROW((void)call());
  call.ids = int64s({3, 2}, {0, -1, 3, 4, 2, 1000000});
  EXPECT_THROW((void)call(), std::invalid_argument);
  call.options.missing = Missing::zero;
  EXPECT_NO_THROW((void)call());
}

TEST(MoeFfnErrors, SharedExperts) {
  const auto shared = [](MoeCall& c, const std::function<void(SharedExperts&)>& change) {
    c.options.shared = SharedExperts{.gate = static_cast<QuantizedWeights>(affine_weights(6, {}, 96, 64)),
                                     .up = static_cast<QuantizedWeights>(affine_weights(7, {}, 96, 64)),
                                     .down = static_cast<QuantizedWeights>(affine_weights(8, {1}, 64, 96))};
    change(*c.options.shared);
  };
  MoeCall call;
  shared(call, [](SharedExperts&) {});
  EXPECT_EQ(call().shape(), (Shape{3, 64}));
  expect_refused(
      "shared.down has shape (4, 64, 32); it must be (64, 96), since rows of x have H = 64 and shared.gate has shape "
      "(96, 64)",
      [&](MoeCall& c) { shared(c, [&](SharedExperts& s) { s.down = c.down; }); });
  expect_refused("x has shape (3, 64) but shared.scale has shape (4,); it must be (3,) or (3, 1), a factor for each row",
                 [&](MoeCall& c) { shared(c, [](SharedExperts& s) { s.scale = Generator(1).normal({4}); }); });
  expect_refused("shared.down_bias has shape (96,); it must be (64,), a value for each output of shared.down",
                 [&](MoeCall& c) { shared(c, [](SharedExperts& s) { s.down_bias = Generator(1).normal({96}); }); });
}

TEST(MoeFfnErrors, Out) {
  expect_refused("out is float32 (3, 32) but the result is float32 (3, 64); allocate it so",
                 [](MoeCall& c) { c.options.out = array::empty({3, 32}, Dtype::float32); });
  expect_refused("out overlaps the memory of x; pass memory of its own", [](MoeCall& c) { c.options.out = c.x; });
  expect_refused("out overlaps the memory of down; pass memory of its own", [](MoeCall& c) {
    const array memory = array::empty({4, 64, 32}, Dtype::float32);
    c.down = memory;
    c.options.out = array::borrow_mut(memory.mutable_bytes(), {3, 64}, Dtype::float32);
  });
  MoeCall call;
  const array expected = call();
  call.options.out = array::empty({3, 64}, Dtype::float32);
  EXPECT_EQ(call().bytes(), call.options.out->bytes());
  EXPECT_EQ(memory_of(*call.options.out), memory_of(expected));
}

/// A copy with a kilobyte of unused memory on both sides.
array padded(const array& a) {
  constexpr std::int64_t padding = 1024;
  const array memory = array::empty({static_cast<std::int64_t>(a.nbytes()) + 2 * padding}, Dtype::uint8);
  std::copy_n(a.bytes(), a.nbytes(), memory.mutable_bytes() + padding);
  return array::borrow_mut(memory.mutable_bytes() + padding, a.shape(), a.dtype(), {}, memory.owner());
}

// Of each array, the last byte is the first one of the memory for the result.
TEST(MoeFfnErrors, OutOverlapsNoOperand) {
  MoeCall call;
  call.options.gate_bias = call.options.up_bias = Generator(6).normal({4, 32});
  call.options.down_bias = Generator(7).normal({4, 64});
  call.options.shared = SharedExperts{.gate = Generator(8).normal({32, 64}),
                                      .up = Generator(9).normal({32, 64}),
                                      .down = Generator(10).normal({64, 32}),
                                      .gate_bias = Generator(11).normal({32}),
                                      .scale = Generator(12).normal({3})};
  EXPECT_NO_THROW((void)call());
  const auto refuse = [&](const std::string& name, array& operand) {
    const array original = operand;
    operand = padded(original);
    call.options.out = array::borrow_mut(operand.mutable_bytes() + operand.nbytes() - 1, {3, 64}, Dtype::float32);
    expect_error("[moe_ffn] out overlaps the memory of " + name + "; pass memory of its own", call);
    operand = original;
  };
  refuse("x", call.x);
  refuse("topk_ids", call.ids);
  refuse("topk_weights", *call.weights);
  const std::pair<std::string, ExpertWeights*> layers[] = {{"gate", &call.gate}, {"up", &*call.up}, {"down", &call.down}};
  for (const auto& [name, layer] : layers) {
    auto& weights = std::get<QuantizedWeights>(*layer);
    for (array* part : {&weights.w, &weights.scales, &*weights.biases}) {
      refuse(name, *part);
    }
  }
  refuse("gate_bias", *call.options.gate_bias);
  refuse("up_bias", *call.options.up_bias);
  refuse("down_bias", *call.options.down_bias);
  SharedExperts& shared = *call.options.shared;
  refuse("shared.gate", std::get<array>(shared.gate));
  refuse("shared.up", std::get<array>(*shared.up));
  refuse("shared.down", std::get<array>(shared.down));
  refuse("shared.gate_bias", *shared.gate_bias);
  refuse("shared.scale", *shared.scale);
}

TEST(MoeFfnErrors, NamesOfOrders) {
  for (const GateUpOrder order : {GateUpOrder::gate_up, GateUpOrder::up_gate, GateUpOrder::interleaved}) {
    EXPECT_EQ(gate_up_order_from_name(gqmm::name_of(order), "moe_ffn"), order);
  }
  expect_error("[moe_ffn] unknown gate_up_order \"up\"; use one of \"gate_up\", \"up_gate\", \"interleaved\"",
               [] { return gate_up_order_from_name("up", "moe_ffn"); });
  expect_error("[gather_qmm] unknown missing \"no\"; use one of \"error\", \"zero\"",
               [] { return missing_from_name("no", "gather_qmm"); });
}

}  // namespace
}  // namespace gqmm::test
