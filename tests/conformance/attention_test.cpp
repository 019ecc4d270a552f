// Attention keeps its contract: the error bound per element, and the same bits however queries, keys, batches and threads are
// cut.
#include "api/lower.hpp"
#include "conformance/support/attention_operands.hpp"
#include "conformance/support/check.hpp"
#include "conformance/support/random.hpp"
#include "formats/float_types.hpp"

#include <gqmm/gqmm.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>

namespace gqmm::conformance {

using namespace detail;

namespace {

int sweep() { return quick() ? 24 : 400; }

struct Call {
  array q;
  array k;
  array v;
  float scale = 0.1F;
  AttentionOptions options = {};

  [[nodiscard]] array run() const { return scaled_dot_product_attention(q, k, v, scale, options); }
};

/// A call of random shapes, types, masks and layouts.
Call random_call(std::uint64_t seed, std::int64_t longest) {
  Random random(seed);
  constexpr std::int64_t depths[] = {1, 8, 24, 33, 64, 80, 96, 128, 192};
  constexpr std::int64_t groups[] = {1, 1, 2, 3, 4, 7, 8};
  const std::int64_t B = random.integer(1, 3);
  const std::int64_t kv_heads = random.integer(1, 2);
  const std::int64_t q_heads = kv_heads * random.one_of(groups);
  const std::int64_t L = random.integer(1, longest);
  const std::int64_t T = random.chance(0.4) ? 1 : random.integer(1, std::min<std::int64_t>(L, 40));
  const bool mla = random.chance(0.1);
  const std::int64_t D = mla ? 576 : random.one_of(depths);
  const std::int64_t Dv = mla ? 512 : random.chance(0.7) ? D : random.one_of(depths);
  const Dtype type = random.one_of(compute_types);
  const auto type_of_operand = [&] { return random.chance(0.9) ? type : random.one_of(compute_types); };
  const auto operand = [&](const Shape& shape, Dtype dtype, double deviation) {
    return in_any_layout(normal(shape, dtype, random, deviation), random);
  };
  Call call{.q = operand({B, q_heads, T, D}, type_of_operand(), random.uniform(0.5, 4)),
            .k = operand({B, kv_heads, L, D}, type_of_operand(), 1),
            .v = operand({B, kv_heads, L, Dv}, type_of_operand(), 1),
            .scale = static_cast<float>(1 / std::sqrt(static_cast<double>(D)))};
  call.options.mask = random_mask({B, q_heads, T, L}, random);
  if (random.chance(0.3)) {
    call.options.sinks = normal({q_heads}, random.one_of(compute_types), random);
  }
  call.options.origin = random_origin(B, L, random);
  return call;
}

TEST(Attention, KeepsItsErrorBound) {
  double worst = 0;
  for (int i = 0; i < sweep(); ++i) {
    SCOPED_TRACE(i);
    const Call call = random_call(static_cast<std::uint64_t>(880000 + i), i % 20 == 0 ? 2500 : 300);
    const array y = call.run();
    const LoweredAttention lowered = lower_attention(call.q, call.k, call.v, call.scale, call.options);
    worst = std::max(worst, worst_fraction(lowered.problem, y, static_cast<std::uint64_t>(i)));
    ASSERT_LE(worst, 1);
  }
  EXPECT_GT(worst, 0.3) << "the bound is much too wide";
}

TEST(Attention, HasTheSameBitsOnAllInstructionSetsAndNumbersOfThreads) {
  const RestoreInstructionSet restore;
  for (int i = 0; i < sweep() / 8; ++i) {
    SCOPED_TRACE(i);
    Call call = random_call(static_cast<std::uint64_t>(890000 + i), i % 5 == 0 ? 2200 : 400);
    call.options.stream.threads = 1;
    const array expected = call.run();
    for (const std::string& name : supported_instruction_sets()) {
      SCOPED_TRACE(name);
      set_instruction_set(name);
      for (const int threads : {1, 2, 7}) {
        SCOPED_TRACE(threads);
        call.options.stream.threads = threads;
        EXPECT_TRUE(same_bits(expected, call.run()));
      }
    }
  }
}

/// A causal call with packed row-major operands.
Call causal_call(std::int64_t B, std::int64_t q_heads, std::int64_t kv_heads, std::int64_t T, std::int64_t L, std::int64_t D,
                 Dtype type, std::uint64_t seed) {
  Random random(seed);
  return {.q = normal({B, q_heads, T, D}, type, random, 2),
          .k = normal({B, kv_heads, L, D}, type, random),
          .v = normal({B, kv_heads, L, D}, type, random),
          .scale = 0.125F,
          .options = {.mask = CausalMask()}};
}

TEST(Attention, ARowHasTheSameBitsAloneAndInAPrompt) {
  for (const Dtype type : compute_types) {
    SCOPED_TRACE(name_of(type));
    for (const auto& [L, D] : {std::pair<std::int64_t, std::int64_t>{300, 64}, {1100, 16}, {130, 192}}) {
      const Call prompt = causal_call(2, 8, 2, L, L, D, type, 31);
      const array expected = prompt.run();
      for (const std::int64_t chunk : {1, 7, 64, 129}) {
        SCOPED_TRACE(chunk);
        // Chunks everywhere would take long: some of them, the last one among them.
        for (std::int64_t first = 0; first < L; first += chunk * (1 + (L / chunk) / 9)) {
          const std::int64_t count = std::min(chunk, L - first);
          const Call some = {.q = part(prompt.q, 2, first, count),
                             .k = part(prompt.k, 2, 0, first + count),
                             .v = part(prompt.v, 2, 0, first + count),
                             .scale = prompt.scale,
                             .options = {.mask = CausalMask()}};
          EXPECT_TRUE(same_bits(copied(part(expected, 2, first, count)), some.run()));
        }
      }
      // One batch element alone, and without a mask for the last query.
      const Call last = {.q = part(part(prompt.q, 0, 1, 1), 2, L - 1, 1),
                         .k = part(prompt.k, 0, 1, 1),
                         .v = part(prompt.v, 0, 1, 1),
                         .scale = prompt.scale};
      EXPECT_TRUE(same_bits(copied(part(part(expected, 0, 1, 1), 2, L - 1, 1)), last.run()));
    }
  }
}

TEST(Attention, AnOriginGivesTheBitsOfTheSequenceAlone) {
  constexpr std::int64_t L = 400;
  constexpr std::int64_t padding[] = {0, 1, 100, 128, 333};
  for (const Dtype type : compute_types) {
    SCOPED_TRACE(name_of(type));
    const Call alone = causal_call(1, 4, 2, L, L, 64, type, 41);
    const array expected = alone.run();
    for (const std::int64_t padded : padding) {
      SCOPED_TRACE(padded);
      // The padding holds garbage that no query sees.
      const auto pad = [&](const array& a) {
        array wide = array::empty({1, a.dim(1), padded + L, a.dim(3)}, type);
        for (std::int64_t i = 0; i < wide.size(); ++i) {
          store_float(wide.mutable_bytes() + i * wide.itemsize(), type, i % 2 == 0 ? infinity : std::nanf(""));
        }
        const std::int64_t row = a.dim(3) * static_cast<std::int64_t>(a.itemsize());
        for (std::int64_t h = 0; h < a.dim(1); ++h) {
          std::copy_n(a.bytes() + h * L * row, L * row, wide.mutable_bytes() + (h * (padded + L) + padded) * row);
        }
        return wide;
      };
      const array mask =
          bool_mask({1, 1, L, padded + L}, [&](std::int64_t t, std::int64_t j) { return j >= padded && j <= padded + t; });
      const Call call = {.q = alone.q,
                         .k = pad(alone.k),
                         .v = pad(alone.v),
                         .scale = alone.scale,
                         .options = {.mask = mask, .origin = integers({padded})}};
      EXPECT_TRUE(same_bits(expected, call.run()));
    }
    // A window of 50 keys, after the first keys have been dropped.
    const array window = bool_mask({1, 1, 20, L}, [&](std::int64_t t, std::int64_t j) {
      const std::int64_t position = L - 20 + t;
      return j <= position && j > position - 50;
    });
    const Call whole = {
        .q = part(alone.q, 2, L - 20, 20), .k = alone.k, .v = alone.v, .scale = 0.125F, .options = {.mask = window}};
    constexpr std::int64_t kept = 75;
    const Call dropped = {.q = whole.q,
                          .k = part(alone.k, 2, L - kept, kept),
                          .v = part(alone.v, 2, L - kept, kept),
                          .scale = 0.125F,
                          .options = {.mask = part(window, 3, L - kept, kept), .origin = integers({-(L - kept)})}};
    EXPECT_TRUE(same_bits(whole.run(), dropped.run()));
  }
}

TEST(Attention, DoesNotReadWhatNoQuerySees) {
  for (const Dtype type : compute_types) {
    SCOPED_TRACE(name_of(type));
    for (const std::int64_t T : {1, 3, 60}) {
      SCOPED_TRACE(T);
      Random random(51);
      const std::int64_t L = 500;
      Call call = causal_call(1, 4, 1, T, L, 64, type, 52);
      const array random_mask =
          bool_mask({1, 1, T, L}, [&](std::int64_t, std::int64_t j) { return j % 3 != 0 && random.chance(0.7); });
      call.options.mask = random_mask;
      const array expected = call.run();
      for (std::int64_t j = 0; j < L; j += 3) {
        for (array* const a : {&call.k, &call.v}) {
          for (std::int64_t d = 0; d < 64; ++d) {
            store_float(a->mutable_bytes() + (j * 64 + d) * a->itemsize(), type, d % 2 == 0 ? std::nanf("") : -infinity);
          }
        }
      }
      EXPECT_TRUE(same_bits(expected, call.run()));
      // The same keys hidden by −Inf.
      array additive = array::empty({1, 1, T, L}, Dtype::float32);
      for (std::int64_t i = 0; i < additive.size(); ++i) {
        additive.mutable_data<float>()[i] = random_mask.bytes()[i] == std::byte{0} ? -infinity : 0.0F;
      }
      call.options.mask = additive;
      EXPECT_TRUE(same_bits(expected, call.run()));
    }
  }
}

TEST(Attention, NotANumberInWhatAQuerySeesGivesNotANumber) {
  for (const std::int64_t T : {1, 40}) {
    Call call = causal_call(1, 2, 2, T, 200, 32, Dtype::float32, 61);
    call.v.mutable_data<float>()[5 * 32 + 3] = infinity;         // head 0, key 5
    call.k.mutable_data<float>()[200 * 32 + 7] = std::nanf("");  // head 1, key 0
    const array y = call.run();
    for (std::int64_t t = 0; t < T; ++t) {
      for (std::int64_t d = 0; d < 32; ++d) {
        EXPECT_EQ(std::isinf(y.data<float>()[t * 32 + d]), d == 3);
        EXPECT_TRUE(std::isnan(y.data<float>()[(T + t) * 32 + d]));
      }
    }
  }
}

TEST(Attention, AQueryThatSeesNothing) {
  const Call base = causal_call(1, 4, 2, 30, 20, 16, Dtype::float32, 71);  // 10 queries stand before the first key
  const auto row = [](const array& y, std::int64_t t) { return y.data<float>() + t * 16; };
  const auto mean = [&](std::int64_t d) {
    double sum = 0;
    for (std::int64_t j = 0; j < 20; ++j) {
      sum += base.v.data<float>()[j * 16 + d];
    }
    return sum / 20;
  };
  const array causal = base.run();
  Call masked = base;
  masked.options.mask = bool_mask({30, 20}, [](std::int64_t t, std::int64_t j) { return j <= t - 10; });
  EXPECT_TRUE(same_bits(causal, masked.run()));
  Call infinite = base;
  array additive = array::empty({30, 20}, Dtype::float32);
  for (std::int64_t i = 0; i < additive.size(); ++i) {
    additive.mutable_data<float>()[i] = i % 20 <= i / 20 - 10 ? 0 : -infinity;
  }
  infinite.options.mask = additive;
  Call lowest = base;
  array numbers = array::empty({30, 20}, Dtype::float32);
  for (std::int64_t i = 0; i < numbers.size(); ++i) {
    numbers.mutable_data<float>()[i] = i % 20 <= i / 20 - 10 ? 0 : std::numeric_limits<float>::lowest();
  }
  lowest.options.mask = numbers;
  Call with_endless_sink = infinite;
  array endless = array::empty({4}, Dtype::float32);
  std::fill_n(endless.mutable_data<float>(), 4, -infinity);
  with_endless_sink.options.sinks = endless;
  EXPECT_EQ(row(with_endless_sink.run(), 9)[0], 0);
  Call with_sink = base;
  Random random(72);
  with_sink.options.sinks = normal({4}, Dtype::float32, random);
  for (std::int64_t d = 0; d < 16; ++d) {
    EXPECT_NEAR(row(causal, 9)[d], mean(d), 1e-6);
    EXPECT_NEAR(row(lowest.run(), 9)[d], mean(d), 1e-6);
    EXPECT_EQ(row(lowest.run(), 15)[d], row(causal, 15)[d]);
    EXPECT_TRUE(std::isnan(row(infinite.run(), 9)[d]));
    EXPECT_EQ(row(with_sink.run(), 9)[d], 0);
    EXPECT_TRUE(std::isfinite(row(infinite.run(), 10)[d]));
  }
}

}  // namespace
}  // namespace gqmm::conformance
