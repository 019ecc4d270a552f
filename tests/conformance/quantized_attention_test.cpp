// Attention over quantized keys and values keeps its contract: the bits of attention over dequantized ones, the error bound per
// element, and the same bits however queries, keys, batches and threads are cut.
#include "api/lower.hpp"
#include "conformance/support/attention_operands.hpp"
#include "conformance/support/check.hpp"
#include "conformance/support/random.hpp"
#include "formats/float_types.hpp"
#include "formats/registry.hpp"

#include <gqmm/gqmm.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace gqmm::conformance {

using namespace detail;

namespace {

int sweep() { return quick() ? 24 : 200; }  // the quick one runs on emulated processors and under sanitizers

struct Call {
  array q;
  QuantizedWeights keys;
  QuantizedWeights values;
  float scale = 0.125F;
  QuantizedAttentionOptions options = {};

  [[nodiscard]] array run() const { return quantized_scaled_dot_product_attention(q, keys, values, scale, options); }
};

array converted(const array& a, Dtype dtype) {
  const array row_major = copied(a);
  array result = array::empty(a.shape(), dtype);
  for (std::int64_t i = 0; i < a.size(); ++i) {
    store_float(result.mutable_bytes() + i * result.itemsize(), dtype,
                load_float(row_major.bytes() + i * row_major.itemsize(), a.dtype()));
  }
  return result;
}

/// What dequantize returns of the same codes with scales and biases in float32.
array dequantized(const QuantizedWeights& weights) {
  QuantizedWeights wide = weights;
  wide.scales = converted(weights.scales, Dtype::float32);
  wide.biases = converted(*weights.biases, Dtype::float32);
  return dequantize(wide);
}

/// The same call over dequantized keys and values: float32 attention, rounded to the type of the quantized call.
array dense(const Call& call, Dtype dtype) {
  const array y =
      scaled_dot_product_attention(call.q, dequantized(call.keys), dequantized(call.values), call.scale,
                                   {.mask = call.options.mask, .origin = call.options.origin, .stream = call.options.stream});
  EXPECT_EQ(y.dtype(), Dtype::float32);
  return converted(y, dtype);
}

/// Random settings, types and arrangements of memory; scales and biases have types of their own now and then.
QuantizedWeights random_weights(const Shape& shape, Dtype type, Random& random) {
  const std::vector<int> bits = bits_of(Mode::affine);
  const Format& format = *find_format(Mode::affine, bits[static_cast<std::size_t>(random.integer(0, std::ssize(bits) - 1))]);
  int group_size = format.group_sizes[static_cast<std::size_t>(random.integer(0, std::ssize(format.group_sizes) - 1))];
  while (shape.back() % group_size != 0) {
    group_size /= 2;
  }
  QuantizedWeights weights = quantize(normal(shape, type, random), {.group_size = group_size, .bits = format.bits});
  weights.w = in_any_layout(weights.w, random);
  weights.scales = in_any_layout(converted(weights.scales, random.chance(0.9) ? type : random.one_of(compute_types)), random);
  weights.biases = in_any_layout(converted(*weights.biases, random.chance(0.9) ? type : random.one_of(compute_types)), random);
  return weights;
}

/// A call of random shapes, types, settings, masks and layouts.
Call random_call(int seed, std::int64_t longest) {
  Random random(static_cast<std::uint64_t>(seed));
  constexpr std::int64_t depths[] = {32, 64, 64, 96, 128, 128, 160, 256};
  constexpr std::int64_t groups[] = {1, 1, 2, 3, 4, 7, 8};
  const std::int64_t B = random.integer(1, 3);
  const std::int64_t kv_heads = random.integer(1, 2);
  const std::int64_t q_heads = kv_heads * random.one_of(groups);
  const std::int64_t L = random.integer(1, longest);
  const std::int64_t T = random.chance(0.4) ? 1 : random.integer(1, std::min<std::int64_t>(L, 90));
  const std::int64_t D = random.one_of(depths);
  const std::int64_t Dv = random.chance(0.7) ? D : random.one_of(depths);
  const Dtype type = random.one_of(compute_types);
  const Dtype type_of_q = random.chance(0.9) ? type : random.one_of(compute_types);
  return {.q = in_any_layout(normal({B, q_heads, T, D}, type_of_q, random, random.uniform(0.5, 4)), random),
          .keys = random_weights({B, kv_heads, L, D}, type, random),
          .values = random_weights({B, kv_heads, L, Dv}, type, random),
          .scale = static_cast<float>(1 / std::sqrt(static_cast<double>(D))),
          .options = {.mask = random_mask({B, q_heads, T, L}, random), .origin = random_origin(B, L, random)}};
}

TEST(QuantizedAttention, HasTheBitsOfAttentionOverDequantizedKeysAndValues) {
  for (int i = 0; i < sweep(); ++i) {
    SCOPED_TRACE(i);
    const Call call = random_call(910000 + i, i % 20 == 0 ? 2500 : 300);
    const array y = call.run();
    ASSERT_TRUE(same_bits(dense(call, y.dtype()), y));
  }
}

// Where dequantize is exact in a half type, its result can be given to attention as it is.
TEST(QuantizedAttention, HasTheBitsOfAttentionInAHalfTypeWhereThatHoldsTheValues) {
  for (const Dtype type : {Dtype::float16, Dtype::bfloat16}) {
    Random random(3);
    const auto weights = [&] {
      QuantizedWeights exact = quantize(normal({2, 2, 300, 64}, type, random), {.bits = 4});
      for (std::int64_t i = 0; i < exact.scales.size(); ++i) {  // code / 8 − 1 has at most 4 significant bits
        store_float(exact.scales.mutable_bytes() + i * exact.scales.itemsize(), type, 0.125F);
        store_float(exact.biases->mutable_bytes() + i * exact.scales.itemsize(), type, -1);
      }
      return exact;
    };
    const Call call = {
        .q = normal({2, 8, 70, 64}, type, random), .keys = weights(), .values = weights(), .options = {.mask = CausalMask()}};
    EXPECT_TRUE(same_bits(
        scaled_dot_product_attention(call.q, dequantize(call.keys), dequantize(call.values), call.scale, {.mask = CausalMask()}),
        call.run()));
  }
}

TEST(QuantizedAttention, KeepsItsErrorBound) {
  double worst = 0;
  for (int i = 0; i < sweep(); ++i) {
    SCOPED_TRACE(i);
    const Call call = random_call(920000 + i, i % 20 == 0 ? 2500 : 300);
    const array y = call.run();
    const LoweredAttention lowered = lower_quantized_attention(call.q, call.keys, call.values, call.scale, call.options);
    worst = std::max(worst, worst_fraction(lowered.problem, y, static_cast<std::uint64_t>(i)));
    ASSERT_LE(worst, 1);
  }
  EXPECT_GT(worst, 0.3) << "the bound is much too wide";
}

TEST(QuantizedAttention, HasTheSameBitsOnAllInstructionSetsAndNumbersOfThreads) {
  const RestoreInstructionSet restore;
  for (int i = 0; i < sweep() / 8; ++i) {
    SCOPED_TRACE(i);
    Call call = random_call(930000 + i, i % 5 == 0 ? 2200 : 400);
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

/// The part [first, first + count) of dimension `axis`, which is not the last one.
QuantizedWeights part_of(const QuantizedWeights& weights, std::size_t axis, std::int64_t first, std::int64_t count) {
  QuantizedWeights some = weights;
  some.w = part(weights.w, axis, first, count);
  some.scales = part(weights.scales, axis, first, count);
  some.biases = part(*weights.biases, axis, first, count);
  return some;
}

/// A causal call with packed row-major operands.
Call causal_call(std::int64_t B, std::int64_t q_heads, std::int64_t kv_heads, std::int64_t L, std::int64_t D, Dtype type,
                 int bits) {
  Random random(31);
  return {.q = normal({B, q_heads, L, D}, type, random, 2),
          .keys = quantize(normal({B, kv_heads, L, D}, type, random), {.bits = bits}),
          .values = quantize(normal({B, kv_heads, L, D}, type, random), {.bits = bits}),
          .options = {.mask = CausalMask()}};
}

TEST(QuantizedAttention, ARowHasTheSameBitsAloneAndInAPrompt) {
  for (const int bits : {8, 4, 3}) {
    SCOPED_TRACE(bits);
    for (const auto& [L, D] : {std::pair<std::int64_t, std::int64_t>{300, 64}, {1100, 64}, {130, 192}}) {
      if (quick() && L > 1000) {
        continue;
      }
      const Call prompt = causal_call(2, 8, 2, L, D, Dtype::bfloat16, bits);
      const array expected = prompt.run();
      for (const std::int64_t chunk : {1, 7, 64, 129}) {
        SCOPED_TRACE(chunk);
        // Chunks everywhere would take long: some of them, the last one among them.
        for (std::int64_t first = 0; first < L; first += chunk * (1 + (L / chunk) / 9)) {
          const std::int64_t count = std::min(chunk, L - first);
          const Call some = {.q = part(prompt.q, 2, first, count),
                             .keys = part_of(prompt.keys, 2, 0, first + count),
                             .values = part_of(prompt.values, 2, 0, first + count),
                             .options = {.mask = CausalMask()}};
          EXPECT_TRUE(same_bits(copied(part(expected, 2, first, count)), some.run()));
        }
      }
      // One batch element alone, and without a mask for the last query.
      const Call last = {.q = part(part(prompt.q, 0, 1, 1), 2, L - 1, 1),
                         .keys = part_of(prompt.keys, 0, 1, 1),
                         .values = part_of(prompt.values, 0, 1, 1)};
      EXPECT_TRUE(same_bits(copied(part(part(expected, 0, 1, 1), 2, L - 1, 1)), last.run()));
    }
  }
}

TEST(QuantizedAttention, AnOriginGivesTheBitsOfTheSequenceAlone) {
  constexpr std::int64_t L = 400;
  const Call alone = causal_call(1, 4, 2, L, 64, Dtype::bfloat16, 8);
  const array expected = alone.run();
  for (const std::int64_t padded : {0, 1, 100, 128, 333}) {
    SCOPED_TRACE(padded);
    // The codes of the padding are zeros; its scales and biases are NaN and Inf, which no query sees.
    const auto pad = [&](const array& a) {
      array wide = array::empty({1, a.dim(1), padded + L, a.dim(3)}, a.dtype());
      for (std::int64_t i = 0; i < wide.size(); ++i) {
        if (a.dtype() == Dtype::uint32) {
          wide.mutable_data<std::uint32_t>()[i] = 0;
        } else {
          store_float(wide.mutable_bytes() + i * wide.itemsize(), a.dtype(), i % 2 == 0 ? infinity : std::nanf(""));
        }
      }
      const std::int64_t row = a.dim(3) * static_cast<std::int64_t>(a.itemsize());
      for (std::int64_t h = 0; h < a.dim(1); ++h) {
        std::copy_n(a.bytes() + h * L * row, L * row, wide.mutable_bytes() + (h * (padded + L) + padded) * row);
      }
      return wide;
    };
    const auto pad_all = [&](const QuantizedWeights& weights) {
      QuantizedWeights wide = weights;
      wide.w = pad(weights.w);
      wide.scales = pad(weights.scales);
      wide.biases = pad(*weights.biases);
      return wide;
    };
    const array mask =
        bool_mask({1, 1, L, padded + L}, [&](std::int64_t t, std::int64_t j) { return j >= padded && j <= padded + t; });
    const Call call = {.q = alone.q,
                       .keys = pad_all(alone.keys),
                       .values = pad_all(alone.values),
                       .options = {.mask = mask, .origin = integers({padded})}};
    EXPECT_TRUE(same_bits(expected, call.run()));
  }
}

TEST(QuantizedAttention, DoesNotReadWhatNoQuerySees) {
  for (const std::int64_t T : {1, 3, 60}) {
    SCOPED_TRACE(T);
    Random random(51);
    constexpr std::int64_t L = 500;
    Call call = causal_call(1, 4, 1, L, 64, Dtype::float32, 8);
    call.q = copied(part(call.q, 2, 0, T));
    call.options.mask = bool_mask({1, 1, T, L}, [&](std::int64_t, std::int64_t j) { return j % 3 != 0 && random.chance(0.7); });
    const array expected = call.run();
    for (std::int64_t j = 0; j < L; j += 3) {
      call.keys.scales.mutable_data<float>()[j] = std::nanf("");
      call.keys.biases->mutable_data<float>()[j] = infinity;
      call.values.scales.mutable_data<float>()[j] = -infinity;
      call.values.biases->mutable_data<float>()[j] = std::nanf("");
    }
    EXPECT_TRUE(same_bits(expected, call.run()));
  }
}

TEST(QuantizedAttention, AQueryThatSeesNothingHasTheMeanOfTheValues) {
  Call call = causal_call(1, 4, 2, 30, 64, Dtype::float32, 8);
  call.keys = part_of(call.keys, 2, 0, 20);  // 10 queries stand before the first key
  call.values = part_of(call.values, 2, 0, 20);
  const array y = call.run();
  const array values = dequantized(call.values);
  for (std::int64_t d = 0; d < 64; ++d) {
    double sum = 0;
    double magnitude = 0;
    for (std::int64_t j = 0; j < 20; ++j) {
      sum += values.data<float>()[j * 64 + d];
      magnitude += std::fabs(values.data<float>()[j * 64 + d]);
    }
    EXPECT_NEAR(y.data<float>()[9 * 64 + d], sum / 20, 22 * 0x1p-24 * magnitude / 20);  // 20 sums, a factor and a product
    EXPECT_NE(y.data<float>()[10 * 64 + d], y.data<float>()[9 * 64 + d]);
  }
}

}  // namespace
}  // namespace gqmm::conformance
