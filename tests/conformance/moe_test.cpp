// moe_ffn keeps its contract: the error bound per element, the bits of its parts, and the same bits in any batch, order, form and
// number of threads. moe_operands_test.cpp has the operands at the edges of what it takes.
#include "arrays/views.hpp"
#include "conformance/support/check.hpp"
#include "conformance/support/moe_problems.hpp"
#include "formats/float_types.hpp"
#include "formats/registry.hpp"

#include <gqmm/gqmm.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace gqmm::conformance {

using namespace detail;

namespace {

constexpr Dtype compute_types[] = {Dtype::float32, Dtype::float16, Dtype::bfloat16};
constexpr GateUpOrder orders[] = {GateUpOrder::gate_up, GateUpOrder::up_gate, GateUpOrder::interleaved};

int sweep() { return quick() ? 60 : 400; }

std::vector<std::int64_t> shuffled(std::int64_t count, Random& random) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), std::int64_t{0});
  random.shuffle(std::span(order));
  return order;
}

TEST(MoeFfn, KeepsItsErrorBound) {
  double worst = 0;
  for (int i = 0; i < sweep() / 2; ++i) {
    MoeSpec spec = random_moe(static_cast<std::uint64_t>(710000 + i));
    spec.tokens = std::min<std::int64_t>(spec.tokens, 16 / spec.k + 1);  // the reference decodes every weight for every slot
    SCOPED_TRACE(describe(spec));
    MoeOperands operands = make(spec);
    if (i % 5 == 0) {
      operands.options.router_weight_on_input = true;
    } else if (i % 7 == 0 && !spec.shared) {
      operands.weights.reset();
    }
    const array y = operands.call();
    const MoeJudgement judgement = judge(operands, y);
    ASSERT_TRUE(keeps(judgement));
    worst = std::max(worst, judgement.worst);
  }
  EXPECT_GT(worst, 0.05) << "the bound is much too wide";
}

/// Adds the bias of each slot's expert to float32 results.
array plus_bias(const array& products, const std::optional<array>& bias, const array& ids) {
  if (!bias) {
    return products;
  }
  array sums = array::empty(products.shape(), Dtype::float32);
  const std::int64_t N = products.dim(-1);
  for (std::int64_t slot = 0; slot < ids.size(); ++slot) {
    for (std::int64_t n = 0; n < N; ++n) {
      const std::int64_t at = ids.data<std::int32_t>()[slot] * N + n;
      sums.mutable_data<float>()[slot * N + n] =
          products.data<float>()[slot * N + n] + load_float(bias->bytes() + at * bias->itemsize(), bias->dtype());
    }
  }
  return sums;
}

array product(const array& x, const ExpertWeights& weights, const std::optional<array>& lhs, const array& ids,
              Precision precision) {
  if (const auto* dense = std::get_if<array>(&weights)) {
    return gather_mm(x, transposed(*dense), {.lhs_indices = lhs, .rhs_indices = ids});
  }
  const GatherQmmOptions options = {.lhs_indices = lhs, .rhs_indices = ids, .precision = precision};
  if (const auto* packed = std::get_if<PackedWeights>(&weights)) {
    return gather_qmm(x, *packed, options);
  }
  return gather_qmm(x, std::get<QuantizedWeights>(weights), options);
}

array reshaped(const array& a, Shape shape) { return array::borrow(a.bytes(), std::move(shape), a.dtype(), {}, a.owner()); }

/// One of the two parts of the last dimension of the product of a layer that has both.
array half_of(const array& both, GateUpOrder order, bool up) {
  const std::int64_t I = both.dim(-1) / 2;
  array half = array::empty({both.size() / (2 * I), I}, Dtype::float32);
  const bool second = up != (order == GateUpOrder::up_gate);
  for (std::int64_t i = 0; i < half.size(); ++i) {
    const std::int64_t row = i / I * 2 * I;
    const std::int64_t at = order == GateUpOrder::interleaved ? 2 * (i % I) + (up ? 1 : 0) : i % I + (second ? I : 0);
    half.mutable_data<float>()[i] = both.data<float>()[row + at];
  }
  return half;
}

TEST(MoeFfn, InFloat32HasTheBitsOfItsParts) {
  for (int i = 0; i < sweep(); ++i) {
    MoeSpec spec = random_moe(static_cast<std::uint64_t>(720000 + i));
    spec.dtype = Dtype::float32;
    spec.shared = false;
    SCOPED_TRACE(describe(spec));
    const MoeOperands operands = make(spec);
    const std::int64_t slots = spec.tokens * spec.k;
    array tokens = array::empty({slots}, Dtype::int64);
    for (std::int64_t slot = 0; slot < slots; ++slot) {
      tokens.mutable_data<std::int64_t>()[slot] = slot / spec.k;
    }
    const array ids = reshaped(operands.ids, {slots});
    const array x = reshaped(operands.x, {spec.tokens, 1, spec.H});
    array gate = plus_bias(product(x, operands.gate, tokens, ids, spec.precision), operands.options.gate_bias, ids);
    std::optional<array> up;
    if (operands.up) {
      up = plus_bias(product(x, *operands.up, tokens, ids, spec.precision), operands.options.up_bias, ids);
    } else if (is_gated(spec.activation)) {
      up = half_of(gate, spec.order, true);
      gate = half_of(gate, spec.order, false);
    }
    const array h = reshaped(activate(gate, up, spec.activation), {slots, 1, spec.I});
    const array y = plus_bias(product(h, operands.down, std::nullopt, ids, spec.precision), operands.options.down_bias, ids);
    const array expected = moe_combine(reshaped(y, {spec.tokens, spec.k, spec.H}), *operands.weights);
    EXPECT_TRUE(same_bits(expected, operands.call()));
  }
}

TEST(MoeFfn, HasTheSameBitsInAnyBatchOrderAndNumberOfThreads) {
  for (int i = 0; i < sweep(); ++i) {
    const MoeSpec spec = random_moe(static_cast<std::uint64_t>(730000 + i));
    SCOPED_TRACE(describe(spec));
    Random random(spec.seed + 1);
    const MoeOperands operands = make(spec);
    const array y = operands.call();
    const std::vector<std::int64_t> order = shuffled(spec.tokens, random);
    EXPECT_TRUE(same_bits(rows(y, order), operands.call_with([&](MoeOperands& o) { take_tokens(o, order); }))) << "shuffled";
    const std::vector<std::int64_t> alone = {random.integer(0, spec.tokens - 1)};
    EXPECT_TRUE(same_bits(rows(y, alone), operands.call_with([&](MoeOperands& o) { take_tokens(o, alone); }))) << "alone";
    for (const int threads : {2, 3, 7}) {
      EXPECT_TRUE(same_bits(y, operands.call_with([&](MoeOperands& o) { o.options.stream.threads = threads; })))
          << threads << " threads";
    }
  }
}

TEST(MoeFfn, HasTheSameBitsOnEveryInstructionSet) {
  const RestoreInstructionSet restore;
  const std::vector<std::string> sets = supported_instruction_sets();
  for (int i = 0; i < sweep(); ++i) {
    const MoeSpec spec = random_moe(static_cast<std::uint64_t>(740000 + i));
    SCOPED_TRACE(describe(spec));
    const MoeOperands operands = make(spec);
    set_instruction_set(sets.front());
    const array expected = operands.call();
    for (const std::string& set : sets) {
      set_instruction_set(set);
      EXPECT_TRUE(same_bits(expected, operands.call())) << "expected " << sets.front() << ", actual " << set;
    }
  }
}

/// Packs a layer that is in place.
ExpertWeights packed(const ExpertWeights& weights) {
  const auto* in_place = std::get_if<QuantizedWeights>(&weights);
  return in_place != nullptr ? ExpertWeights(pack(*in_place)) : weights;
}

TEST(MoeFfn, HasTheSameBitsPackedAndInPlace) {
  for (int i = 0; i < sweep(); ++i) {
    MoeSpec spec = random_moe(static_cast<std::uint64_t>(750000 + i));
    for (Storage* storage : {&spec.gate, &spec.up, &spec.down}) {
      storage->packed = false;
    }
    SCOPED_TRACE(describe(spec));
    const MoeOperands operands = make(spec);
    EXPECT_TRUE(same_bits(operands.call(), operands.call_with([](MoeOperands& o) {
      o.gate = packed(o.gate);
      o.down = packed(o.down);
      if (o.up) {
        o.up = packed(*o.up);
      }
    })));
  }
}

/// Row `n` of each matrix of one array becomes row to(n) of the result.
array with_rows_moved(const array& a, const std::function<std::int64_t(std::int64_t)>& to) {
  array moved = array::empty(a.shape(), a.dtype());
  const std::int64_t row_bytes = a.dim(-1) * a.itemsize();
  const std::int64_t N = a.dim(-2);
  for (std::int64_t row = 0; row < a.size() / a.dim(-1); ++row) {
    const std::int64_t target = row / N * N + to(row % N);
    std::copy_n(a.bytes() + row * row_bytes, row_bytes, moved.mutable_bytes() + target * row_bytes);
  }
  return moved;
}

// Gate and up separate, and both in one layer in each order, packed or not: also where I is no multiple of 16.
TEST(MoeFfn, HasTheSameBitsWithUpApartAndInOneLayer) {
  for (const std::int64_t I : {32, 40, 72, 100}) {
    for (const Dtype dtype : compute_types) {
      Random random(static_cast<std::uint64_t>(760000 + I));
      const Storage storage = {.format = find_format(Mode::affine, 4), .group_size = 32, .dtype = Dtype::float32};
      const Storage dense = {.dtype = Dtype::bfloat16};
      MoeSpec spec = {.tokens = 9,
                      .I = I,
                      .dtype = dtype,
                      .separate_up = false,
                      .biases = true,
                      .gate = storage,
                      .up = storage,
                      .down = dense,
                      .seed = 760001};
      const MoeOperands both = make(spec);
      const auto& layer_of_both = std::get<QuantizedWeights>(both.gate);
      const array bias_of_both = *both.options.gate_bias;
      // The outputs [first, first + I) of the layer.
      const auto half = [&](std::int64_t first) {
        const auto part = [&](const array& a) {
          return array::borrow(a.bytes() + first * a.stride(-2), {a.dim(0), I, a.dim(-1)}, a.dtype(), a.strides(), a.owner());
        };
        QuantizedWeights weights = layer_of_both;
        weights.w = part(weights.w);
        weights.scales = part(weights.scales);
        weights.biases = part(*weights.biases);
        return weights;
      };
      const auto half_bias = [&](std::int64_t first) {
        return array::borrow(bias_of_both.bytes() + first * bias_of_both.itemsize(), {bias_of_both.dim(0), I},
                             bias_of_both.dtype(), bias_of_both.strides(), bias_of_both.owner());
      };
      const array expected = both.call_with([&](MoeOperands& o) {
        o.gate = half(0);
        o.up = half(I);
        o.options.gate_bias = half_bias(0);
        o.options.up_bias = half_bias(I);
      });
      for (const GateUpOrder order : orders) {
        const auto to = [&](std::int64_t n) {
          switch (order) {
            case GateUpOrder::gate_up: return n;
            case GateUpOrder::up_gate: return n < I ? n + I : n - I;
            case GateUpOrder::interleaved: return n < I ? 2 * n : 2 * (n - I) + 1;
          }
          return n;
        };
        QuantizedWeights moved = layer_of_both;
        moved.w = with_rows_moved(moved.w, to);
        moved.scales = with_rows_moved(moved.scales, to);
        moved.biases = with_rows_moved(*moved.biases, to);
        const array column = reshaped(bias_of_both, {bias_of_both.dim(0), 2 * I, 1});
        const array moved_bias = reshaped(with_rows_moved(column, to), bias_of_both.shape());
        for (const bool in_strips : {false, true}) {
          EXPECT_TRUE(same_bits(expected, both.call_with([&](MoeOperands& o) {
            o.gate = in_strips ? ExpertWeights(pack(moved)) : ExpertWeights(moved);
            o.options.gate_bias = moved_bias;
            o.options.gate_up_order = order;
          }))) << gqmm::name_of(order)
               << (in_strips ? " packed" : " in place") << ", I = " << I << ", " << gqmm::name_of(dtype);
        }
      }
    }
  }
}

TEST(MoeFfn, WithoutWeightsGivesTheSlotsThatMoeCombineAddsUp) {
  for (int i = 0; i < sweep(); ++i) {
    MoeSpec spec = random_moe(static_cast<std::uint64_t>(770000 + i));
    spec.shared = false;
    SCOPED_TRACE(describe(spec));
    const MoeOperands operands = make(spec);
    const array slots = operands.call_with([](MoeOperands& o) { o.weights.reset(); });
    EXPECT_EQ(slots.shape(), (Shape{spec.tokens, spec.k, spec.H}));
    EXPECT_TRUE(same_bits(operands.call(), moe_combine(slots, *operands.weights)));
  }
}

// Ranks hold a part of the experts each. Their slots, put together, are those of one call.
TEST(MoeFfn, SlotsOfSeveralRanksAreThoseOfOneCall) {
  for (int i = 0; i < sweep() / 4; ++i) {
    MoeSpec spec = random_moe(static_cast<std::uint64_t>(780000 + i));
    spec.shared = false;
    spec.gate.packed = spec.up.packed = spec.down.packed = false;
    spec.gate.transpose = spec.up.transpose = spec.down.transpose = true;
    spec.gate = {.format = find_format(Mode::affine, 8), .group_size = 32, .dtype = Dtype::float16};
    spec.up = spec.down = spec.gate;
    SCOPED_TRACE(describe(spec));
    MoeOperands operands = make(spec);
    operands.weights.reset();
    const array expected = operands.call();
    const std::int64_t split = spec.experts / 2;
    const auto part = [](const ExpertWeights& weights, std::int64_t first, std::int64_t count) {
      QuantizedWeights some = std::get<QuantizedWeights>(weights);
      const auto slice = [&](const array& a) {
        Shape shape = a.shape();
        shape[0] = count;
        return array::borrow(a.bytes() + first * a.stride(0), shape, a.dtype(), a.strides(), a.owner());
      };
      some.w = slice(some.w);
      some.scales = slice(some.scales);
      some.biases = slice(*some.biases);
      return some;
    };
    const auto part_of_bias = [](const std::optional<array>& bias, std::int64_t first, std::int64_t count) {
      return bias ? std::optional(array::borrow(bias->bytes() + first * bias->stride(0), {count, bias->dim(1)}, bias->dtype(),
                                                bias->strides(), bias->owner()))
                  : std::nullopt;
    };
    array together = array::empty(expected.shape(), expected.dtype());
    std::fill_n(together.mutable_bytes(), together.nbytes(), std::byte{0});
    for (const auto& [first, count] : {std::pair(std::int64_t{0}, split), std::pair(split, spec.experts - split)}) {
      const array slots = operands.call_with([&, first = first, count = count](MoeOperands& o) {
        o.gate = part(o.gate, first, count);
        o.down = part(o.down, first, count);
        if (o.up) {
          o.up = part(*o.up, first, count);
        }
        o.options.gate_bias = part_of_bias(o.options.gate_bias, first, count);
        o.options.up_bias = part_of_bias(o.options.up_bias, first, count);
        o.options.down_bias = part_of_bias(o.options.down_bias, first, count);
        o.options.local_experts = LocalExperts{.first = first, .count = count};
      });
      for (std::size_t byte = 0; byte < slots.nbytes(); ++byte) {
        together.mutable_bytes()[byte] |= slots.bytes()[byte];  // the slots of other ranks are +0
      }
    }
    EXPECT_TRUE(same_bits(expected, together));
  }
}

}  // namespace
}  // namespace gqmm::conformance
