// The gated delta rule and the state space recurrence keep their contract: the error bound of y and of the state, and the same
// bits however tokens, batches and threads are cut.
#include "api/lower.hpp"
#include "conformance/support/gated_delta_operands.hpp"
#include "conformance/support/layer_arrays.hpp"
#include "conformance/support/ssm_operands.hpp"
#include "reference/gated_delta.hpp"
#include "reference/ssm.hpp"

#include <gqmm/gqmm.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <string>

namespace gqmm::conformance {

using namespace detail;

namespace {

int sweep() { return quick() ? 40 : 300; }

LoweredGatedDelta lower(const GatedDeltaCall& c) { return lower_gated_delta(c.q, c.k, c.v, c.g, c.beta, c.options); }
LoweredSsm lower(const SsmCall& c) { return lower_ssm(c.v, c.A_log, c.B, c.C, c.D, c.dt, c.dt_bias, c.options); }

template <class Result>
void expect_same(const Result& expected, const Result& result) {
  EXPECT_TRUE(same_bits(expected.y, result.y));
  EXPECT_TRUE(same_bits(expected.state, result.state));
}

/// The part [first, first + count) of all that has tokens.
template <class Call>
Call tokens_of(const Call& call, std::int64_t first, std::int64_t count) {
  Call some = call;
  for (array* operand : some.of_tokens()) {
    *operand = part(*operand, 1, first, count);
  }
  if (call.options.mask) {
    some.options.mask = part(*call.options.mask, 1, first, count);
  }
  if constexpr (requires { call.options.lengths; }) {
    if (call.options.lengths) {
      some.options.lengths = copied(*call.options.lengths);
      for (std::int64_t b = 0; b < some.options.lengths->size(); ++b) {
        some.options.lengths->template mutable_data<std::int64_t>()[b] -= first;
      }
    }
  }
  return some;
}

/// One sequence of a batch.
template <class Call>
Call sequence_of(const Call& call, std::int64_t b) {
  Call one = call;
  for (array* operand : one.of_tokens()) {
    *operand = part(*operand, 0, b, 1);
  }
  std::vector<std::optional<array>*> options = {&one.options.state, &one.options.mask};
  if constexpr (requires { call.options.lengths; }) {
    options.push_back(&one.options.lengths);
  }
  for (std::optional<array>* operand : options) {
    if (*operand) {
      *operand = part(**operand, 0, b, 1);
    }
  }
  return one;
}

/// |value − reference| in units of the bound.
double fraction(const RecurrenceElement& reference, double value) {
  if (std::isnan(value) || std::isnan(reference.value)) {
    return std::isnan(value) == std::isnan(reference.value) ? 0 : std::numeric_limits<double>::infinity();
  }
  const double error = std::fabs(value - reference.value);
  return error == 0 ? 0 : error / reference.bound;
}

template <class Call>
class Recurrence : public testing::Test {};

struct Names {
  template <class Call>
  static std::string GetName(int) {
    return std::is_same_v<Call, SsmCall> ? "Ssm" : "GatedDelta";
  }
};
using Calls = testing::Types<GatedDeltaCall, SsmCall>;
TYPED_TEST_SUITE(Recurrence, Calls, Names);

TYPED_TEST(Recurrence, KeepsItsErrorBound) {
  double worst_y = 0;
  double worst_state = 0;
  for (int i = 0; i < sweep(); ++i) {
    SCOPED_TRACE(i);
    Random columns(static_cast<std::uint64_t>(i));
    const TypeParam call(static_cast<std::uint64_t>(510000 + i));
    const auto result = call.run();
    const auto lowered = lower(call);
    const RecurrenceProblem& p = lowered.problem;
    for (int column = 0; column < 12; ++column) {
      const std::int64_t b = columns.integer(0, p.batch - 1);
      const std::int64_t h = columns.integer(0, p.v_heads - 1);
      const std::int64_t d = columns.integer(0, p.Dv - 1);
      SCOPED_TRACE("[" + std::to_string(b) + ", " + std::to_string(h) + ", " + std::to_string(d) + "]");
      const RecurrenceColumn reference = reference_of(lowered.problem, {b, h, d});
      for (std::int64_t t = 0; t < p.tokens; ++t) {
        const double y = element(result.y, ((b * p.tokens + t) * p.v_heads + h) * p.Dv + d);
        worst_y = std::max(worst_y, fraction(reference.y[static_cast<std::size_t>(t)], y));
        ASSERT_LE(worst_y, 1) << "y of token " << t << " is " << y;
      }
      for (std::int64_t e = 0; e < p.Dk; ++e) {
        const double s = element(result.state, ((b * p.v_heads + h) * p.Dv + d) * p.Dk + e);
        worst_state = std::max(worst_state, fraction(reference.state[static_cast<std::size_t>(e)], s));
        ASSERT_LE(worst_state, 1) << "element " << e << " of the state is " << s;
      }
    }
  }
  EXPECT_GT(worst_y, 0.3) << "the bound is much too wide";
  EXPECT_GT(worst_state, 0.1) << "the bound is much too wide";
}

TYPED_TEST(Recurrence, HasTheSameBitsOnAllInstructionSetsAndNumbersOfThreads) {
  for (int i = 0; i < sweep() / 4; ++i) {
    SCOPED_TRACE(i);
    TypeParam call(static_cast<std::uint64_t>(520000 + i));
    const auto expected = call.run();
    with_all_sets_and_threads([&](Stream stream) {
      call.options.stream = stream;
      expect_same(expected, call.run());
    });
  }
}

TYPED_TEST(Recurrence, APromptHasTheSameBitsInChunksOfAnySize) {
  for (int i = 0; i < sweep() / 2; ++i) {
    SCOPED_TRACE(i);
    const TypeParam prompt(static_cast<std::uint64_t>(530000 + i));
    const auto expected = prompt.run();
    const std::int64_t T = prompt.extents().T;
    for (const std::int64_t chunk : {1, 3, 16, 17}) {
      SCOPED_TRACE(chunk);
      std::optional<array> state = prompt.options.state;
      for (std::int64_t first = 0; first < T; first += chunk) {
        TypeParam some = tokens_of(prompt, first, std::min(chunk, T - first));
        some.options.state = state;
        const auto result = some.run();
        ASSERT_TRUE(same_bits(copied(part(expected.y, 1, first, std::min(chunk, T - first))), result.y)) << first;
        state = result.state;
      }
      ASSERT_TRUE(same_bits(expected.state, *state));
    }
  }
}

TYPED_TEST(Recurrence, ASequenceHasTheSameBitsInAnyBatch) {
  for (int i = 0; i < sweep() / 2; ++i) {
    SCOPED_TRACE(i);
    const TypeParam batch(static_cast<std::uint64_t>(540000 + i));
    const auto expected = batch.run();
    for (std::int64_t b = 0; b < batch.extents().B; ++b) {
      const typename TypeParam::Result of_batch = {copied(part(expected.y, 0, b, 1)), copied(part(expected.state, 0, b, 1))};
      expect_same(of_batch, sequence_of(batch, b).run());
    }
  }
}

TYPED_TEST(Recurrence, PaddingChangesNothing) {
  constexpr std::int64_t padding = 21;  // more than a block of tokens
  constexpr std::int64_t T = 19;
  const TypeParam alone({.B = 1, .T = T, .Hk = 2, .Hv = 4, .Dk = 32, .Dv = 40}, Dtype::float32, 7);
  const auto expected = alone.run();
  for (const bool left : {true, false}) {
    SCOPED_TRACE(left);
    const auto padded = [&](const array& a) {
      Shape shape = a.shape();
      shape[1] += padding;
      array result = array::empty(shape, a.dtype());
      std::fill_n(result.mutable_data<float>(), result.size(), std::numeric_limits<float>::quiet_NaN());
      std::memcpy(result.mutable_bytes() + (left ? result.nbytes() - a.nbytes() : 0), a.bytes(), a.nbytes());
      return result;
    };
    TypeParam call = alone;
    for (array* operand : call.of_tokens()) {
      *operand = padded(*operand);
    }
    const auto check = [&] {
      const auto result = call.run();
      EXPECT_TRUE(same_bits(expected.state, result.state));
      EXPECT_TRUE(same_bits(expected.y, copied(part(result.y, 1, left ? padding : 0, T))));
      const array rest = copied(part(result.y, 1, left ? 0 : T, padding));
      for (std::int64_t i = 0; i < rest.size(); ++i) {
        ASSERT_EQ(rest.template data<float>()[i], 0);
      }
    };
    array mask = array::empty({1, T + padding}, Dtype::bool_);
    for (std::int64_t t = 0; t < T + padding; ++t) {
      mask.mutable_bytes()[t] = static_cast<std::byte>((left ? t >= padding : t < T) ? 1 : 0);
    }
    call.options.mask = mask;
    check();
    if constexpr (requires { call.options.lengths; }) {
      if (!left) {
        call.options.mask.reset();
        call.options.lengths = integers({T});
        check();
      }
    }
  }
}

TYPED_TEST(Recurrence, WithoutTokensTheStateStaysAsItIs) {
  TypeParam call({.B = 2, .T = 0, .Hk = 1, .Hv = 3, .Dk = 33, .Dv = 17}, Dtype::bfloat16, 8);
  Random random(9);
  call.options.state = normal({2, 3, 17, 33}, Dtype::float32, random);
  const auto result = call.run();
  EXPECT_EQ(result.y.shape(), (Shape{2, 0, 3, 17}));
  EXPECT_TRUE(same_bits(copied(*call.options.state), result.state));
  call.options.state.reset();
  const array zeros = call.run().state;
  for (std::int64_t i = 0; i < zeros.size(); ++i) {
    ASSERT_EQ(zeros.data<float>()[i], 0);
  }
}

TYPED_TEST(Recurrence, TheNewStateMayTakeThePlaceOfTheOld) {
  for (int i = 0; i < sweep() / 8; ++i) {
    SCOPED_TRACE(i);
    TypeParam call(static_cast<std::uint64_t>(550000 + i));
    const RecurrenceExtents e = call.extents();
    Random random(static_cast<std::uint64_t>(i));
    array state = normal({e.B, e.Hv, e.Dv, e.Dk}, Dtype::float32, random);
    call.options.state = copied(state);
    const auto expected = call.run();
    call.options.state = state;
    call.options.state_out = state;
    call.options.stream.threads = 3;
    const auto result = call.run();
    EXPECT_EQ(result.state.bytes(), state.bytes());
    expect_same(expected, result);
  }
}

TYPED_TEST(Recurrence, LanesBehindARowAddNothingToAnInfinity) {
  TypeParam call({.B = 1, .T = 2, .Hk = 1, .Hv = 1, .Dk = 17, .Dv = 3}, Dtype::float32, 11);
  for (const auto& operands : {call.of_tokens(), call.of_heads()}) {
    for (array* operand : operands) {
      std::fill_n(operand->template mutable_data<float>(), operand->size(), 0.25F);
    }
  }
  call.v.template mutable_data<float>()[0] = infinity;
  const RestoreInstructionSet restore;
  for (const std::string& set : supported_instruction_sets()) {
    SCOPED_TRACE(set);
    set_instruction_set(set);
    const auto whole = call.run();
    EXPECT_EQ(whole.y.template data<float>()[0], infinity);
    TypeParam second = tokens_of(call, 1, 1);
    second.options.state = tokens_of(call, 0, 1).run().state;
    const auto result = second.run();
    EXPECT_TRUE(same_bits(copied(part(whole.y, 1, 1, 1)), result.y));
    EXPECT_TRUE(same_bits(whole.state, result.state));
  }
}

TYPED_TEST(Recurrence, NotANumberStaysInItsColumnAndIsCanonical) {
  TypeParam call({.B = 1, .T = 5, .Hk = 1, .Hv = 2, .Dk = 16, .Dv = 20}, Dtype::float32, 10);
  call.v = copied(call.v);
  call.v.template mutable_data<float>()[2 * (2 * 20) + 3] =
      -std::numeric_limits<float>::quiet_NaN();  // token 2, head 0, column 3
  const auto result = call.run();
  const auto bits_at = [](const array& a, std::int64_t i) {
    std::uint32_t bits = 0;
    std::memcpy(&bits, a.data<float>() + i, sizeof bits);
    return bits;
  };
  for (std::int64_t i = 0; i < result.y.size(); ++i) {
    const bool is_nan = i / 40 >= 2 && i % 40 == 3;
    ASSERT_EQ(std::isnan(result.y.template data<float>()[i]), is_nan) << i;
    ASSERT_TRUE(!is_nan || bits_at(result.y, i) == 0x7fc00000U) << i;
  }
  for (std::int64_t i = 0; i < result.state.size(); ++i) {
    const bool is_nan = i / 16 == 3;
    ASSERT_EQ(std::isnan(result.state.template data<float>()[i]), is_nan) << i;
    ASSERT_TRUE(!is_nan || bits_at(result.state, i) == 0x7fc00000U) << i;
  }
}

}  // namespace
}  // namespace gqmm::conformance
