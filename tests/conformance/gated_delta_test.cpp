// The gated delta rule keeps its contract: the error bound of y and of the state, and the same bits however tokens, batches and
// threads are cut.
#include "reference/gated_delta.hpp"
#include "api/lower.hpp"
#include "conformance/support/gated_delta_operands.hpp"
#include "conformance/support/layer_arrays.hpp"

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

void expect_same(const GatedDeltaResult& expected, const GatedDeltaResult& result) {
  EXPECT_TRUE(same_bits(expected.y, result.y));
  EXPECT_TRUE(same_bits(expected.state, result.state));
}

/// The part [first, first + count) of all that has tokens.
GatedDeltaCall tokens_of(const GatedDeltaCall& call, std::int64_t first, std::int64_t count) {
  GatedDeltaCall some = call;
  for (array* operand : {&some.q, &some.k, &some.v, &some.g, &some.beta}) {
    *operand = part(*operand, 1, first, count);
  }
  if (call.options.mask) {
    some.options.mask = part(*call.options.mask, 1, first, count);
  }
  return some;
}

/// One sequence of a batch.
GatedDeltaCall sequence_of(const GatedDeltaCall& call, std::int64_t b) {
  GatedDeltaCall one = call;
  for (array* operand : {&one.q, &one.k, &one.v, &one.g, &one.beta}) {
    *operand = part(*operand, 0, b, 1);
  }
  for (std::optional<array>* operand : {&one.options.state, &one.options.mask}) {
    if (*operand) {
      *operand = part(**operand, 0, b, 1);
    }
  }
  return one;
}

/// |value − reference| in units of the bound.
double fraction(const GatedDeltaElement& reference, double value) {
  if (std::isnan(value) || std::isnan(reference.value)) {
    return std::isnan(value) == std::isnan(reference.value) ? 0 : std::numeric_limits<double>::infinity();
  }
  const double error = std::fabs(value - reference.value);
  return error == 0 ? 0 : error / reference.bound;
}

TEST(GatedDelta, KeepsItsErrorBound) {
  double worst_y = 0;
  double worst_state = 0;
  for (int i = 0; i < sweep(); ++i) {
    SCOPED_TRACE(i);
    Random columns(static_cast<std::uint64_t>(i));
    const GatedDeltaCall call(static_cast<std::uint64_t>(510000 + i));
    const GatedDeltaResult result = call.run();
    const LoweredGatedDelta lowered = lower_gated_delta(call.q, call.k, call.v, call.g, call.beta, call.options);
    const GatedDeltaProblem& p = lowered.problem;
    for (int column = 0; column < 12; ++column) {
      const std::int64_t b = columns.integer(0, p.batch - 1);
      const std::int64_t h = columns.integer(0, p.v_heads - 1);
      const std::int64_t d = columns.integer(0, p.Dv - 1);
      SCOPED_TRACE("[" + std::to_string(b) + ", " + std::to_string(h) + ", " + std::to_string(d) + "]");
      const GatedDeltaColumn reference = reference_gated_delta(p, b, h, d);
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

TEST(GatedDelta, HasTheSameBitsOnAllInstructionSetsAndNumbersOfThreads) {
  for (int i = 0; i < sweep() / 4; ++i) {
    SCOPED_TRACE(i);
    GatedDeltaCall call(static_cast<std::uint64_t>(520000 + i));
    const GatedDeltaResult expected = call.run();
    with_all_sets_and_threads([&](Stream stream) {
      call.options.stream = stream;
      expect_same(expected, call.run());
    });
  }
}

TEST(GatedDelta, APromptHasTheSameBitsInChunksOfAnySize) {
  for (int i = 0; i < sweep() / 2; ++i) {
    SCOPED_TRACE(i);
    const GatedDeltaCall prompt(static_cast<std::uint64_t>(530000 + i));
    const GatedDeltaResult expected = prompt.run();
    const std::int64_t T = prompt.v.dim(1);
    for (const std::int64_t chunk : {1, 3, 16, 17}) {
      SCOPED_TRACE(chunk);
      std::optional<array> state = prompt.options.state;
      for (std::int64_t first = 0; first < T; first += chunk) {
        GatedDeltaCall some = tokens_of(prompt, first, std::min(chunk, T - first));
        some.options.state = state;
        const GatedDeltaResult result = some.run();
        ASSERT_TRUE(same_bits(copied(part(expected.y, 1, first, std::min(chunk, T - first))), result.y)) << first;
        state = result.state;
      }
      ASSERT_TRUE(same_bits(expected.state, *state));
    }
  }
}

TEST(GatedDelta, ASequenceHasTheSameBitsInAnyBatch) {
  for (int i = 0; i < sweep() / 2; ++i) {
    SCOPED_TRACE(i);
    const GatedDeltaCall batch(static_cast<std::uint64_t>(540000 + i));
    const GatedDeltaResult expected = batch.run();
    for (std::int64_t b = 0; b < batch.v.dim(0); ++b) {
      expect_same({copied(part(expected.y, 0, b, 1)), copied(part(expected.state, 0, b, 1))}, sequence_of(batch, b).run());
    }
  }
}

TEST(GatedDelta, PaddingChangesNothing) {
  constexpr std::int64_t padding = 21;  // more than a block of tokens
  constexpr std::int64_t T = 19;
  GatedDeltaCall alone(GatedDeltaCall::Extents{.B = 1, .T = T, .Hk = 2, .Hv = 4, .Dk = 32, .Dv = 40}, Dtype::float32, 7);
  const GatedDeltaResult expected = alone.run();
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
    GatedDeltaCall call = alone;
    for (array* operand : {&call.q, &call.k, &call.v, &call.g, &call.beta}) {
      *operand = padded(*operand);
    }
    array mask = array::empty({1, T + padding}, Dtype::bool_);
    for (std::int64_t t = 0; t < T + padding; ++t) {
      mask.mutable_bytes()[t] = static_cast<std::byte>((left ? t >= padding : t < T) ? 1 : 0);
    }
    call.options.mask = mask;
    const GatedDeltaResult result = call.run();
    EXPECT_TRUE(same_bits(expected.state, result.state));
    EXPECT_TRUE(same_bits(expected.y, copied(part(result.y, 1, left ? padding : 0, T))));
    const array rest = copied(part(result.y, 1, left ? 0 : T, padding));
    for (std::int64_t i = 0; i < rest.size(); ++i) {
      ASSERT_EQ(rest.data<float>()[i], 0);
    }
  }
}

TEST(GatedDelta, WithoutTokensTheStateStaysAsItIs) {
  GatedDeltaCall call(GatedDeltaCall::Extents{.B = 2, .T = 0, .Hk = 1, .Hv = 3, .Dk = 33, .Dv = 17}, Dtype::bfloat16, 8);
  Random random(9);
  call.options.state = normal({2, 3, 17, 33}, Dtype::float32, random);
  const GatedDeltaResult result = call.run();
  EXPECT_EQ(result.y.shape(), (Shape{2, 0, 3, 17}));
  EXPECT_TRUE(same_bits(copied(*call.options.state), result.state));
  call.options.state.reset();
  const array zeros = call.run().state;
  for (std::int64_t i = 0; i < zeros.size(); ++i) {
    ASSERT_EQ(zeros.data<float>()[i], 0);
  }
}

TEST(GatedDelta, TheNewStateMayTakeThePlaceOfTheOld) {
  for (int i = 0; i < sweep() / 8; ++i) {
    SCOPED_TRACE(i);
    GatedDeltaCall call(static_cast<std::uint64_t>(550000 + i));
    const Shape shape = {call.v.dim(0), call.v.dim(2), call.v.dim(3), call.k.dim(3)};
    Random random(static_cast<std::uint64_t>(i));
    array state = normal(shape, Dtype::float32, random);
    call.options.state = copied(state);
    const GatedDeltaResult expected = call.run();
    call.options.state = state;
    call.options.state_out = state;
    call.options.stream.threads = 3;
    const GatedDeltaResult result = call.run();
    EXPECT_EQ(result.state.bytes(), state.bytes());
    expect_same(expected, result);
  }
}

TEST(GatedDelta, LanesBehindARowAddNothingToAnInfinity) {
  constexpr std::int64_t Dk = 17;
  GatedDeltaCall call(GatedDeltaCall::Extents{.B = 1, .T = 2, .Hk = 1, .Hv = 1, .Dk = Dk, .Dv = 3}, Dtype::float32, 11);
  for (array* operand : {&call.q, &call.k, &call.g, &call.beta}) {
    std::fill_n(operand->mutable_data<float>(), operand->size(), 0.25F);
  }
  call.v.mutable_data<float>()[0] = infinity;
  const RestoreInstructionSet restore;
  for (const std::string& set : supported_instruction_sets()) {
    SCOPED_TRACE(set);
    set_instruction_set(set);
    const GatedDeltaResult whole = call.run();
    EXPECT_EQ(whole.y.data<float>()[0], infinity);
    GatedDeltaCall second = tokens_of(call, 1, 1);
    second.options.state = tokens_of(call, 0, 1).run().state;
    const GatedDeltaResult result = second.run();
    EXPECT_TRUE(same_bits(copied(part(whole.y, 1, 1, 1)), result.y));
    EXPECT_TRUE(same_bits(whole.state, result.state));
  }
}

TEST(GatedDelta, NotANumberStaysInItsHeadAndIsCanonical) {
  GatedDeltaCall call(GatedDeltaCall::Extents{.B = 1, .T = 5, .Hk = 1, .Hv = 2, .Dk = 16, .Dv = 20}, Dtype::float32, 10);
  call.v = copied(call.v);
  call.v.mutable_data<float>()[2 * (2 * 20) + 3] = -std::numeric_limits<float>::quiet_NaN();  // token 2, head 0, column 3
  const GatedDeltaResult result = call.run();
  const auto bits_at = [](const array& a, std::int64_t i) {
    std::uint32_t bits = 0;
    std::memcpy(&bits, a.data<float>() + i, sizeof bits);
    return bits;
  };
  for (std::int64_t i = 0; i < result.y.size(); ++i) {
    const bool is_nan = i / 40 >= 2 && i % 40 == 3;
    ASSERT_EQ(std::isnan(result.y.data<float>()[i]), is_nan) << i;
    ASSERT_TRUE(!is_nan || bits_at(result.y, i) == 0x7fc00000U) << i;
  }
  for (std::int64_t i = 0; i < result.state.size(); ++i) {
    const bool is_nan = i / 16 == 3;
    ASSERT_EQ(std::isnan(result.state.data<float>()[i]), is_nan) << i;
    ASSERT_TRUE(!is_nan || bits_at(result.state, i) == 0x7fc00000U) << i;
  }
}

}  // namespace
}  // namespace gqmm::conformance
