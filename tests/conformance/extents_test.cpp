// Index spaces past 2^31: sparse mappings stand for operands that no memory could hold.
#include "conformance/support/check.hpp"
#include "conformance/support/guarded_memory.hpp"
#include "conformance/support/problems.hpp"
#include "formats/registry.hpp"

#include <sys/mman.h>

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

namespace gqmm::conformance {

using namespace detail;

namespace {

std::size_t to_size(std::int64_t count) { return static_cast<std::size_t>(count); }

// Zeros, of which only pages that are written take memory. Null where the system refuses so large a mapping.
std::shared_ptr<std::byte> sparse_memory(std::int64_t bytes) {
  void* const map = mmap(nullptr, to_size(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (map == MAP_FAILED) {
    return nullptr;
  }
  return {static_cast<std::byte*>(map), [bytes](std::byte* memory) { munmap(memory, to_size(bytes)); }};
}

constexpr char no_mapping[] = "this system refuses a sparse mapping of tens of gigabytes";

// A 4-bit affine operand whose elements stand wherever the strides put them.
struct SparseWeights {
  array w;
  array scales;
  array biases;
};

constexpr std::int64_t K = 256;
constexpr int group_size = 64;
constexpr std::int64_t words = K * 4 / 32;
constexpr std::int64_t groups = K / group_size;

// Zeros of this shape, or nothing where the system refuses so large a mapping.
std::optional<array> sparse_array(const Shape& shape, Dtype dtype) {
  const auto memory = sparse_memory(element_count(shape) * static_cast<std::int64_t>(size_of(dtype)));
  return memory != nullptr ? std::optional(array::borrow_mut(memory.get(), shape, dtype, {}, memory)) : std::nullopt;
}

// Experts of N rows, all zero.
std::optional<SparseWeights> sparse_experts(std::int64_t experts, std::int64_t N) {
  const auto w = sparse_array({experts, N, words}, Dtype::uint32);
  const auto scales = sparse_array({experts, N, groups}, Dtype::float32);
  const auto biases = sparse_array({experts, N, groups}, Dtype::float32);
  return w && scales && biases ? std::optional(SparseWeights{*w, *scales, *biases}) : std::nullopt;
}

void write_row(const SparseWeights& weights, std::int64_t expert, std::int64_t n, Random& random) {
  const auto address = [&](const array& a) { return const_cast<std::byte*>(a.bytes()) + expert * a.stride(0) + n * a.stride(1); };
  for (std::int64_t i = 0; i < words; ++i) {
    const auto word = static_cast<std::uint32_t>(random.bits());
    std::memcpy(address(weights.w) + i * 4, &word, 4);
  }
  for (std::int64_t g = 0; g < groups; ++g) {
    const auto scale = static_cast<float>(random.uniform(0.01, 0.1));
    const float bias = -7.5F * scale;
    std::memcpy(address(weights.scales) + g * 4, &scale, 4);
    std::memcpy(address(weights.biases) + g * 4, &bias, 4);
  }
}

Operands product_with(const SparseWeights& weights, const std::vector<std::int64_t>& experts, Random& random) {
  const auto pairs = static_cast<std::int64_t>(experts.size());
  std::vector<float> x(to_size(pairs * K));
  std::generate(x.begin(), x.end(), [&] { return static_cast<float>(random.normal()); });
  const auto rhs = std::as_bytes(std::span(experts));
  Operands operands;
  operands.x = lay_out(bytes_of(x, Dtype::float32), {pairs, 1, K}, Dtype::float32, Layout::contiguous, random);
  operands.weights = {.w = weights.w, .scales = weights.scales, .biases = weights.biases};
  operands.options.rhs_indices = lay_out(rhs, {pairs}, Dtype::int64, Layout::contiguous, random);
  return operands;
}

void expect_right_on_every_instruction_set(const Operands& operands) {
  const RestoreInstructionSet restore;
  const Lowered lowered = lower(operands);
  const Oracle oracle(lowered.problem);
  for (const std::string& set : supported_instruction_sets()) {
    SCOPED_TRACE(set);
    set_crash_note(set.c_str());
    set_instruction_set(set);
    const Judgement judgement = judge(lowered.problem, oracle, call_poisoned(operands));
    EXPECT_TRUE(keeps(judgement));
    EXPECT_EQ(judgement.unbounded, 0);
  }
}

TEST(Extents, ExpertsPast2To31ElementsOfWAreFound) {
  constexpr std::int64_t N = 19;
  const std::int64_t experts = (std::int64_t{1} << 31) / (N * words) + 1000;  // words alone pass 2^31, weights 2^34
  const std::optional<SparseWeights> weights = sparse_experts(experts, N);
  if (!weights) {
    GTEST_SKIP() << no_mapping;
  }
  Random random(600000);
  const std::vector<std::int64_t> hit = {experts - 1, 0, experts - 2, experts / 2, experts - 1, 12345};
  for (const std::int64_t expert : hit) {
    for (std::int64_t n = 0; n < N; ++n) {
      write_row(*weights, expert, n, random);
    }
  }
  expect_right_on_every_instruction_set(product_with(*weights, hit, random));
}

// Some matrices of an array, in memory of their own.
array matrices_of(const array& a, const std::vector<std::int64_t>& experts) {
  array copies = array::empty({static_cast<std::int64_t>(experts.size()), a.dim(1), a.dim(2)}, a.dtype());
  std::byte* to = copies.mutable_bytes();
  for (const std::int64_t expert : experts) {
    to = std::copy_n(a.bytes() + expert * a.stride(0), a.stride(0), to);
  }
  return copies;
}

// moe_ffn with experts far into large weights has the bits of the same experts in small weights.
void expect_far_experts_are_found(const ExpertWeights (&far)[3], const ExpertWeights (&near)[3],
                                  const std::vector<std::int64_t>& hit) {
  const RestoreInstructionSet restore;
  const std::vector<std::int64_t> near_ids = {0, 1, 2, 3, 3, 0, 2, 2};
  std::vector<std::int64_t> far_ids;
  std::transform(near_ids.begin(), near_ids.end(), std::back_inserter(far_ids),
                 [&](std::int64_t id) { return hit[to_size(id)]; });
  Random random(670000);
  std::vector<float> x(to_size(4 * K));
  std::generate(x.begin(), x.end(), [&] { return static_cast<float>(random.normal()); });
  const std::vector<float> weights = {0.5F, 0.25F, 1.0F, -0.75F, 0.125F, 2.0F, 0.5F, 0.5F};
  const auto call = [&](const std::vector<std::int64_t>& ids, const ExpertWeights(&layers)[3]) {
    return moe_ffn(array::borrow(x, {4, K}), array::borrow(ids, {4, 2}), array::borrow(weights, {4, 2}), layers[0], layers[1],
                   layers[2]);
  };
  for (const std::string& set : supported_instruction_sets()) {
    set_instruction_set(set);
    const array expected = call(near_ids, near);
    EXPECT_EQ(std::count(expected.data<float>(), expected.data<float>() + expected.size(), 0.0F), 0) << set;
    EXPECT_TRUE(same_bits(expected, call(far_ids, far))) << set;
  }
}

TEST(Extents, ExpertsOfALayerPast2To31ElementsOfWAreFound) {
  constexpr std::int64_t experts = (std::int64_t{1} << 31) / (K * words) + 1000;  // of words
  const std::vector<std::int64_t> hit = {experts - 1, 0, experts / 2, experts - 2};
  Random random(660000);
  ExpertWeights far[3];
  ExpertWeights near[3];
  for (std::size_t layer = 0; layer < 3; ++layer) {
    const std::optional<SparseWeights> weights = sparse_experts(experts, K);
    if (!weights) {
      GTEST_SKIP() << no_mapping;
    }
    for (const std::int64_t expert : hit) {
      for (std::int64_t n = 0; n < K; ++n) {
        write_row(*weights, expert, n, random);
      }
    }
    far[layer] = QuantizedWeights{.w = weights->w, .scales = weights->scales, .biases = weights->biases};
    near[layer] = QuantizedWeights{.w = matrices_of(weights->w, hit),
                                   .scales = matrices_of(weights->scales, hit),
                                   .biases = matrices_of(weights->biases, hit)};
  }
  expect_far_experts_are_found(far, near, hit);
}

TEST(Extents, DenseExpertsOfALayerPast2To31ElementsAreFound) {
  constexpr std::int64_t experts = (std::int64_t{1} << 31) / (K * K) + 10;
  const std::vector<std::int64_t> hit = {experts - 1, 0, experts / 2, experts - 2};
  Random random(680000);
  ExpertWeights far[3];
  ExpertWeights near[3];
  for (std::size_t layer = 0; layer < 3; ++layer) {
    const std::optional<array> weights = sparse_array({experts, K, K}, Dtype::float32);
    if (!weights) {
      GTEST_SKIP() << no_mapping;
    }
    for (const std::int64_t expert : hit) {
      auto* const matrix = weights->mutable_data<float>() + expert * K * K;
      std::generate(matrix, matrix + K * K, [&] { return static_cast<float>(random.normal() / 16); });
    }
    far[layer] = *weights;
    near[layer] = matrices_of(*weights, hit);
  }
  expect_far_experts_are_found(far, near, hit);
}

TEST(Extents, StridesPast2To31BytesAreFollowed) {
  constexpr std::int64_t experts = 3;
  constexpr std::int64_t N = 5;
  // A row of codes every 2 GiB and a bit, an expert every 12: flat offsets pass 2^35; the last expert comes first in memory.
  constexpr std::int64_t row = (std::int64_t{1} << 31) + 4100;
  constexpr std::int64_t expert = 6 * row;
  const auto memory = sparse_memory(3 * experts * expert);
  if (memory == nullptr) {
    GTEST_SKIP() << no_mapping;
  }
  std::byte* const base = memory.get() + (experts - 1) * expert;
  const SparseWeights weights = {
      array::borrow(base, {experts, N, words}, Dtype::uint32, {-expert, row, 4}),
      array::borrow(base + experts * expert, {experts, N, groups}, Dtype::float32, {-expert, row, 4}),
      array::borrow(base + 2 * experts * expert, {experts, N, groups}, Dtype::float32, {-expert, row, 4})};
  Random random(610000);
  for (std::int64_t e = 0; e < experts; ++e) {
    for (std::int64_t n = 0; n < N; ++n) {
      write_row(weights, e, n, random);
    }
  }
  expect_right_on_every_instruction_set(product_with(weights, {2, 0, 1, 2, 2, 1, 0, 0, 2, 1, 1}, random));
}

TEST(Extents, RowsOfXPast2To31ElementsAreFound) {
  constexpr std::int64_t N = 7;
  const std::int64_t matrices = (std::int64_t{1} << 31) / K + 1000;
  const auto memory = sparse_memory(matrices * K * 4);
  if (memory == nullptr) {
    GTEST_SKIP() << no_mapping;
  }
  Random random(620000);
  Spec spec;
  spec.format = find_format(Mode::affine, 4);
  spec.group_size = group_size;
  spec.N = N;
  spec.K = K;
  spec.pairs = {2, 2};
  Operands operands = make_operands(spec);
  operands.x = array::borrow(memory.get(), {matrices, 1, K}, Dtype::float32);
  const std::vector<std::int64_t> lhs = {matrices - 1, 3, matrices / 2 + 1, matrices - 2};
  for (const std::int64_t matrix : lhs) {
    auto* const x = reinterpret_cast<float*>(memory.get()) + matrix * K;
    std::generate(x, x + K, [&] { return static_cast<float>(random.normal()); });
  }
  operands.options.lhs_indices = lay_out(std::as_bytes(std::span(lhs)), {4}, Dtype::int64, Layout::contiguous, random);
  expect_right_on_every_instruction_set(operands);
}

// One matrix of more than 2^31 weights, its last rows past 2^31 when counted in codes; zero but for some rows.
TEST(Extents, AMatrixOfMoreThan2To31WeightsIsReadToItsEnd) {
  constexpr std::int64_t wide = 65536;
  constexpr std::int64_t N = 32768 + 3;
  const auto w_memory = sparse_memory(N * wide / 2);
  const auto scale_memory = sparse_memory(N * wide / 128 * 4);
  if (w_memory == nullptr || scale_memory == nullptr) {
    GTEST_SKIP() << no_mapping;
  }
  Random random(630000);
  const std::int64_t written[] = {0, 1, 16383, 32766, 32767, 32768, N - 1};
  for (const std::int64_t n : written) {
    auto* const codes = reinterpret_cast<std::uint32_t*>(w_memory.get() + n * wide / 2);
    std::generate(codes, codes + wide / 8, [&] { return static_cast<std::uint32_t>(random.bits()); });
    auto* const scales = reinterpret_cast<float*>(scale_memory.get()) + n * wide / 128;
    std::generate(scales, scales + wide / 128, [&] { return static_cast<float>(random.uniform(0.01, 0.1)); });
  }
  std::vector<float> x(wide);
  std::generate(x.begin(), x.end(), [&] { return static_cast<float>(random.normal()); });
  const array scales = array::borrow(scale_memory.get(), {1, N, wide / 128}, Dtype::float32);
  Operands operands;
  operands.x = array::borrow(x.data(), {1, 1, wide}, Dtype::float32);
  operands.weights = {
      .w = array::borrow(w_memory.get(), {1, N, wide / 8}, Dtype::uint32), .scales = scales, .biases = scales, .group_size = 128};

  const array y = call(operands);
  const Lowered lowered = lower(operands);
  for (const std::int64_t n : written) {
    const ReferenceValue expected = reference_value(lowered.problem, 0, 0, n);
    EXPECT_LE(error_fraction(lowered.problem, expected, y.data<float>()[n]), 1) << "n " << n << ", expected " << expected.y;
  }
  const auto nonzero = std::count_if(y.data<float>(), y.data<float>() + N, [](float value) { return value != 0; });
  EXPECT_EQ(nonzero, static_cast<std::ptrdiff_t>(std::size(written)));
}

TEST(Extents, MoreThan32768RowsOfOneMatrixAreRight) {
  Spec spec;
  spec.format = find_format(Mode::affine, 4);
  spec.group_size = 32;
  spec.M = 40000;
  spec.N = 5;
  spec.K = 32;
  spec.pairs = {0, 1};
  spec.seed = 640000;
  expect_right_on_every_instruction_set(make_operands(spec));
}

TEST(Extents, MoreThan32768PairsOfOneExpertAreRight) {
  for (const Dtype x_dtype : {Dtype::float32, Dtype::bfloat16}) {
    Spec spec;
    spec.format = find_format(Mode::mxfp4, 4);
    spec.group_size = 32;
    spec.x_dtype = x_dtype;
    spec.N = 3;
    spec.K = 32;
    spec.pairs = {70001, 1, 2};
    spec.seed = 650000;
    expect_right_on_every_instruction_set(make_operands(spec));
  }
}

}  // namespace
}  // namespace gqmm::conformance
