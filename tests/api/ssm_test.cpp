// ssm_update: what it refuses, and with which words. Its results are the business of tests/conformance.
#include "api_test_support.hpp"

#include <functional>
#include <limits>

namespace gqmm::test {

using namespace detail;

namespace {

/// A call that works, to be changed in one respect: 2 sequences of 3 tokens, 4 heads of depth 6, 2 groups of depth 8.
struct SsmCall {
  array hidden_states = Generator(1).normal({2, 3, 4, 6});
  array A_log = Generator(2).normal({4});
  array B = Generator(3).normal({2, 3, 2, 8});
  array C = Generator(4).normal({2, 3, 2, 8});
  array D = Generator(5).normal({4});
  array dt = Generator(6).normal({2, 3, 4});
  array dt_bias = Generator(7).normal({4});
  SsmOptions options;

  SsmResult operator()() const { return ssm_update(hidden_states, A_log, B, C, D, dt, dt_bias, options); }
};

void expect_refused(const std::string& message, const std::function<void(SsmCall&)>& change) {
  SsmCall call;
  change(call);
  expect_error("[ssm_update] " + message, call);
}

TEST(SsmErrors, TheUnchangedCallWorks) {
  const SsmResult result = SsmCall()();
  EXPECT_EQ(result.y.shape(), (Shape{2, 3, 4, 6}));
  EXPECT_EQ(result.state.shape(), (Shape{2, 4, 6, 8}));
}

TEST(SsmErrors, Operands) {
  expect_refused("hidden_states has type int64; convert it to float32, float16 or bfloat16",
                 [](SsmCall& c) { c.hidden_states = int64s({2, 3, 4, 6}, {}); });
  expect_refused("B has shape (2, 3, 8); it must have 4 dimensions, (batch, tokens, heads, depth)",
                 [](SsmCall& c) { c.B = Generator(2).normal({2, 3, 8}); });
  expect_refused("C has shape (2, 3, 2, 7) but B has shape (2, 3, 2, 8); they must be equal",
                 [](SsmCall& c) { c.C = Generator(2).normal({2, 3, 2, 7}); });
  expect_refused("B has shape (2, 3, 2, 8) but hidden_states has shape (2, 4, 4, 6); their first two dimensions must be equal",
                 [](SsmCall& c) { c.hidden_states = Generator(2).normal({2, 4, 4, 6}); });
  expect_refused("hidden_states has 5 heads but C and B have 2; hidden_states must have a multiple of them",
                 [](SsmCall& c) { c.hidden_states = Generator(2).normal({2, 3, 5, 6}); });
  expect_refused("A_log has shape (3,); it must be (4,), a number for each head of hidden_states",
                 [](SsmCall& c) { c.A_log = Generator(2).normal({3}); });
  expect_refused("D has shape (4, 1); it must be (4,), a number for each head of hidden_states",
                 [](SsmCall& c) { c.D = Generator(2).normal({4, 1}); });
  expect_refused("dt_bias has type int64; convert it to float32, float16 or bfloat16",
                 [](SsmCall& c) { c.dt_bias = int64s({4}, {}); });
  expect_refused("dt has shape (3, 4); it must be (2, 3, 4), a number for each token and head of hidden_states",
                 [](SsmCall& c) { c.dt = Generator(2).normal({3, 4}); });
}

TEST(SsmErrors, Options) {
  expect_refused(
      "state is float32 (2, 4, 8, 6); it must be float32 (2, 4, 6, 8), (batch, heads, depth of hidden_states, depth of B)",
      [](SsmCall& c) { c.options.state = Generator(8).normal({2, 4, 8, 6}); });
  expect_refused("mask is float32 (2, 3); it must be bool (2, 3), true for tokens that count",
                 [](SsmCall& c) { c.options.mask = Generator(8).normal({2, 3}); });
  expect_refused("lengths has type float32; convert it to an integer type",
                 [](SsmCall& c) { c.options.lengths = Generator(8).normal({2}); });
  expect_refused("lengths has shape (3,); it must be (2,), a number for each sequence",
                 [](SsmCall& c) { c.options.lengths = int64s({3}, {}); });
  const std::string limits = "; it must be two numbers, of which the second is not below the first or 0";
  expect_refused("time_step_limit is (2, 1)" + limits, [](SsmCall& c) { c.options.time_step_limit = {2, 1}; });
  expect_refused("time_step_limit is (-2, -1)" + limits, [](SsmCall& c) { c.options.time_step_limit = {-2, -1}; });
  expect_refused("time_step_limit is (nan, 100)" + limits,
                 [](SsmCall& c) { c.options.time_step_limit.smallest = std::numeric_limits<float>::quiet_NaN(); });
  expect_refused("out is float32 (2, 3, 4, 8) but the result is float32 (2, 3, 4, 6); allocate it so",
                 [](SsmCall& c) { c.options.out = Generator(8).normal({2, 3, 4, 8}); });
  expect_refused("state_out overlaps the memory of D; pass memory of its own", [](SsmCall& c) {
    c.options.state_out = Generator(8).normal({2, 4, 6, 8});
    c.D = array::borrow(c.options.state_out->bytes(), {4}, Dtype::float32);
  });
}

TEST(Ssm, TheTypeOfTheResultIsThatOfHiddenStatesAndD) {
  SsmCall call;
  const auto zeros = [](const Shape& shape, Dtype type) {
    array a = array::empty(shape, type);
    std::fill_n(a.mutable_bytes(), a.nbytes(), std::byte{0});
    return a;
  };
  call.hidden_states = zeros({2, 3, 4, 6}, Dtype::bfloat16);
  EXPECT_EQ(call().y.dtype(), Dtype::float32);
  call.D = zeros({4}, Dtype::bfloat16);
  const SsmTypes types = infer_ssm_update(call.hidden_states, call.A_log, call.B, call.C, call.D, call.dt, call.dt_bias);
  EXPECT_EQ(types.y, (ResultType{{2, 3, 4, 6}, Dtype::bfloat16}));
  EXPECT_EQ(types.state, (ResultType{{2, 4, 6, 8}, Dtype::float32}));
  EXPECT_EQ(call().y.dtype(), Dtype::bfloat16);
  EXPECT_EQ(call().state.dtype(), Dtype::float32);
}

TEST(Ssm, WithoutSequencesOrHeads) {
  SsmCall call;
  call.hidden_states = Generator(1).normal({0, 3, 4, 6});
  call.B = call.C = Generator(1).normal({0, 3, 2, 8});
  call.dt = Generator(1).normal({0, 3, 4});
  EXPECT_EQ(call().state.shape(), (Shape{0, 4, 6, 8}));
  call = SsmCall();
  call.hidden_states = Generator(1).normal({2, 3, 0, 6});
  call.B = call.C = Generator(1).normal({2, 3, 0, 8});
  call.dt = Generator(1).normal({2, 3, 0});
  call.A_log = call.D = call.dt_bias = Generator(1).normal({0});
  EXPECT_EQ(call().y.shape(), (Shape{2, 3, 0, 6}));
}

}  // namespace
}  // namespace gqmm::test
