// gated_delta_update: what it refuses, and with which words. Its results are the business of tests/conformance.
#include "api_test_support.hpp"

#include <functional>

namespace gqmm::test {

using namespace detail;

namespace {

/// A call that works, to be changed in one respect: 2 sequences of 3 tokens, 1 head of q and k, 2 of v, Dk = 8, Dv = 6.
struct DeltaCall {
  array q = Generator(1).normal({2, 3, 1, 8});
  array k = Generator(2).normal({2, 3, 1, 8});
  array v = Generator(3).normal({2, 3, 2, 6});
  array g = Generator(4).normal({2, 3, 2});
  array beta = Generator(5).normal({2, 3, 2});
  GatedDeltaOptions options;

  GatedDeltaResult operator()() const { return gated_delta_update(q, k, v, g, beta, options); }
};

void expect_refused(const std::string& message, const std::function<void(DeltaCall&)>& change) {
  DeltaCall call;
  change(call);
  expect_error("[gated_delta_update] " + message, call);
}

TEST(GatedDeltaErrors, TheUnchangedCallWorks) {
  const GatedDeltaResult result = DeltaCall()();
  EXPECT_EQ(result.y.shape(), (Shape{2, 3, 2, 6}));
  EXPECT_EQ(result.state.shape(), (Shape{2, 2, 6, 8}));
}

TEST(GatedDeltaErrors, Operands) {
  expect_refused("q has type int64; convert it to float32, float16 or bfloat16",
                 [](DeltaCall& c) { c.q = int64s({2, 3, 1, 8}, {}); });
  expect_refused("k has shape (2, 3, 8); it must have 4 dimensions, (batch, tokens, heads, depth)",
                 [](DeltaCall& c) { c.k = Generator(2).normal({2, 3, 8}); });
  expect_refused("v has shape (2, 3, 2, 0); its last dimension must not be 0",
                 [](DeltaCall& c) { c.v = Generator(2).normal({2, 3, 2, 0}); });
  expect_refused("q has shape (2, 3, 1, 8) but k has shape (2, 3, 1, 7); they must be equal",
                 [](DeltaCall& c) { c.k = Generator(2).normal({2, 3, 1, 7}); });
  expect_refused("k has shape (2, 3, 1, 8) but v has shape (2, 4, 2, 6); their first two dimensions must be equal",
                 [](DeltaCall& c) { c.v = Generator(2).normal({2, 4, 2, 6}); });
  expect_refused("v has 3 heads but q and k have 2; v must have a multiple of them", [](DeltaCall& c) {
    c.q = Generator(2).normal({2, 3, 2, 8});
    c.k = c.q;
    c.v = Generator(2).normal({2, 3, 3, 6});
  });
  expect_refused(
      "g has shape (2, 3); it must be (2, 3, 2), a factor for each head of v, or (2, 3, 2, 8), one for each element of k",
      [](DeltaCall& c) { c.g = Generator(2).normal({2, 3}); });
  expect_refused("beta has shape (2, 3, 1); it must be (2, 3, 2), a factor for each head of v",
                 [](DeltaCall& c) { c.beta = Generator(2).normal({2, 3, 1}); });
  expect_refused("beta has type int64; convert it to float32, float16 or bfloat16",
                 [](DeltaCall& c) { c.beta = int64s({2, 3, 2}, {}); });
}

TEST(GatedDeltaErrors, Options) {
  expect_refused("state is float32 (2, 2, 8, 6); it must be float32 (2, 2, 6, 8), (batch, heads of v, depth of v, depth of k)",
                 [](DeltaCall& c) { c.options.state = Generator(6).normal({2, 2, 8, 6}); });
  expect_refused("state is float16 (2, 2, 6, 8); it must be float32 (2, 2, 6, 8), (batch, heads of v, depth of v, depth of k)",
                 [](DeltaCall& c) { c.options.state = array::empty({2, 2, 6, 8}, Dtype::float16); });
  expect_refused("mask is float32 (2, 3); it must be bool (2, 3), true for tokens that count",
                 [](DeltaCall& c) { c.options.mask = Generator(6).normal({2, 3}); });
  expect_refused("mask is bool (3,); it must be bool (2, 3), true for tokens that count",
                 [](DeltaCall& c) { c.options.mask = array::empty({3}, Dtype::bool_); });
  expect_refused("out is float32 (2, 3, 2, 8) but the result is float32 (2, 3, 2, 6); allocate it so",
                 [](DeltaCall& c) { c.options.out = Generator(6).normal({2, 3, 2, 8}); });
  expect_refused("state_out is float16 (2, 2, 6, 8) but the result is float32 (2, 2, 6, 8); allocate it so",
                 [](DeltaCall& c) { c.options.state_out = array::empty({2, 2, 6, 8}, Dtype::float16); });
}

TEST(GatedDeltaErrors, MemoryThatOverlaps) {
  std::vector<float> memory(2 * 2 * 6 * 8 + 1);
  expect_refused("state_out overlaps the memory of state; pass memory of its own", [&](DeltaCall& c) {
    c.options.state = array::borrow(memory.data() + 1, {2, 2, 6, 8}, Dtype::float32);
    c.options.state_out = array::borrow_mut(memory.data(), {2, 2, 6, 8}, Dtype::float32);
  });
  // The same address is not enough: rows of this state lie in another order than those of the result.
  expect_refused("state_out overlaps the memory of state; pass memory of its own", [&](DeltaCall& c) {
    c.options.state = array::borrow(memory.data(), {2, 2, 6, 8}, Dtype::float32, {192, 384, 32, 4});
    c.options.state_out = array::borrow_mut(memory.data(), {2, 2, 6, 8}, Dtype::float32);
  });
  expect_refused("out overlaps the memory of state_out; pass memory of its own", [&](DeltaCall& c) {
    c.options.state_out = array::borrow_mut(memory.data(), {2, 2, 6, 8}, Dtype::float32);
    c.options.out = array::borrow_mut(memory.data(), {2, 3, 2, 6}, Dtype::float32);
  });
  expect_refused("out overlaps the memory of v; pass memory of its own", [&](DeltaCall& c) { c.options.out = c.v; });
}

TEST(GatedDelta, TheTypeOfTheResultIsThatOfQ) {
  DeltaCall call;
  call.q = array::empty({2, 3, 1, 8}, Dtype::bfloat16);
  std::fill_n(call.q.mutable_bytes(), call.q.nbytes(), std::byte{0});
  const GatedDeltaTypes types = infer_gated_delta_update(call.q, call.k, call.v, call.g, call.beta);
  EXPECT_EQ(types.y, (ResultType{{2, 3, 2, 6}, Dtype::bfloat16}));
  EXPECT_EQ(types.state, (ResultType{{2, 2, 6, 8}, Dtype::float32}));
  EXPECT_EQ(call().y.dtype(), Dtype::bfloat16);
  EXPECT_EQ(call().state.dtype(), Dtype::float32);
}

TEST(GatedDelta, WithoutSequencesOrHeads) {
  DeltaCall call;
  call.q = call.k = Generator(1).normal({0, 3, 1, 8});
  call.v = Generator(1).normal({0, 3, 2, 6});
  call.g = call.beta = Generator(1).normal({0, 3, 2});
  EXPECT_EQ(call().state.shape(), (Shape{0, 2, 6, 8}));
  call = DeltaCall();
  call.q = call.k = Generator(1).normal({2, 3, 0, 8});
  call.v = Generator(1).normal({2, 3, 0, 6});
  call.g = call.beta = Generator(1).normal({2, 3, 0});
  EXPECT_EQ(call().y.shape(), (Shape{2, 3, 0, 6}));
}

}  // namespace
}  // namespace gqmm::test
