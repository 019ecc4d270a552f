// moe_ffn with the operands at the edges of what it takes: missing slots, values that are not finite, many experts, one expert
// for everything, empty calls, and any arrangement in memory.
#include "arrays/contiguous.hpp"
#include "conformance/support/check.hpp"
#include "conformance/support/layout.hpp"
#include "conformance/support/moe_problems.hpp"
#include "formats/float_types.hpp"
#include "formats/registry.hpp"

#include <gqmm/gqmm.hpp>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace gqmm::conformance {

using namespace detail;

namespace {

constexpr Dtype compute_types[] = {Dtype::float32, Dtype::float16, Dtype::bfloat16};
constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float nan = std::numeric_limits<float>::quiet_NaN();
constexpr float special_values[] = {nan, infinity, -infinity};

int sweep() { return quick() ? 60 : 400; }

/// A call whose layers are all stored in this way.
MoeSpec with_layers(const Storage& storage, std::uint64_t seed) {
  MoeSpec spec;
  spec.gate = spec.up = spec.down = storage;
  spec.seed = seed;
  return spec;
}

const Storage four_bits = {.format = find_format(Mode::affine, 4), .group_size = 32, .dtype = Dtype::float16};

std::vector<std::int64_t> all_tokens(const MoeSpec& spec) {
  std::vector<std::int64_t> tokens(static_cast<std::size_t>(spec.tokens));
  std::iota(tokens.begin(), tokens.end(), std::int64_t{0});
  return tokens;
}

/// A copy with one other element.
array with_value(const array& a, std::int64_t at, float value) {
  array changed = copy_row_major(a);
  store_float(changed.mutable_bytes() + at * changed.itemsize(), changed.dtype(), value);
  return changed;
}

std::int32_t expert_of(const MoeOperands& operands, std::int64_t slot) { return operands.ids.data<std::int32_t>()[slot]; }

void set_ids(MoeOperands& operands, const std::function<std::int64_t(std::int64_t slot)>& expert) {
  array ids = array::empty(operands.ids.shape(), Dtype::int32);
  for (std::int64_t slot = 0; slot < ids.size(); ++slot) {
    ids.mutable_data<std::int32_t>()[slot] = static_cast<std::int32_t>(expert(slot));
  }
  operands.ids = ids;
}

/// The layers of the routed experts.
std::vector<ExpertWeights*> layers_of(MoeOperands& operands) {
  std::vector<ExpertWeights*> layers = {&operands.gate, &operands.down};
  if (operands.up) {
    layers.push_back(&*operands.up);
  }
  return layers;
}

/// The arrays of a call whose layers are in place, but for shared experts.
std::vector<array*> arrays_of(MoeOperands& operands) {
  std::vector<array*> arrays = {&operands.x, &operands.ids};
  const auto add = [&](std::optional<array>& optional) {
    if (optional) {
      arrays.push_back(&*optional);
    }
  };
  for (ExpertWeights* layer : layers_of(operands)) {
    if (auto* dense = std::get_if<array>(layer)) {
      arrays.push_back(dense);
      continue;
    }
    auto& weights = std::get<QuantizedWeights>(*layer);
    arrays.insert(arrays.end(), {&weights.w, &weights.scales});
    add(weights.biases);
  }
  add(operands.weights);
  add(operands.options.gate_bias);
  add(operands.options.up_bias);
  add(operands.options.down_bias);
  return arrays;
}

/// On every instruction set, the changed call has the same bits, and tokens that the change does not concern keep theirs.
void expect_flow(const MoeOperands& clean, const MoeOperands& changed, const std::vector<std::int64_t>& others) {
  const RestoreInstructionSet restore;
  const array expected = rows(clean.call(), others);
  const std::vector<std::string> sets = supported_instruction_sets();
  set_instruction_set(sets.front());
  const array y = changed.call();
  for (const std::string& set : sets) {
    set_instruction_set(set);
    const array actual = changed.call();
    EXPECT_TRUE(same_bits(y, actual)) << "expected " << sets.front() << ", actual " << set;
    EXPECT_TRUE(same_bits(expected, rows(actual, others))) << "unchanged tokens, " << set;
  }
}

// A missing slot is zero, and neither its row of x nor any expert is read: rows that only missing slots use are NaN here.
TEST(MoeFfn, MissingSlotsAreZero) {
  for (const Dtype dtype : compute_types) {
    const Storage storage = {.format = find_format(Mode::affine, 4), .group_size = 32, .dtype = Dtype::float32};
    MoeSpec spec = {.tokens = 6, .k = 3, .dtype = dtype, .gate = storage, .up = storage, .down = storage, .seed = 790000};
    MoeOperands operands = make(spec);
    array ids = operands.ids;
    for (const std::int64_t slot : {1, 3, 4, 5, 17}) {
      ids.mutable_data<std::int32_t>()[slot] = slot % 2 == 0 ? -1 : -7;
    }
    EXPECT_THROW((void)operands.call(), std::invalid_argument);
    operands.options.missing = Missing::zero;
    operands.weights.reset();
    const array slots = operands.call();
    MoeOperands with_nan = operands;
    with_nan.x = rows(operands.x, {0, 1, 2, 3, 4, 5});
    for (std::int64_t h = 0; h < spec.H; ++h) {  // token 1 has no expert
      store_float(with_nan.x.mutable_bytes() + (spec.H + h) * with_nan.x.itemsize(), dtype, nan);
    }
    EXPECT_TRUE(same_bits(slots, with_nan.call()));
    const std::int64_t row_bytes = spec.H * slots.itemsize();
    for (std::int64_t slot = 0; slot < 18; ++slot) {
      const std::byte* row = slots.bytes() + slot * row_bytes;
      const bool zero = std::all_of(row, row + row_bytes, [](std::byte b) { return b == std::byte{0}; });
      EXPECT_EQ(zero, ids.data<std::int32_t>()[slot] < 0) << "slot " << slot;
    }
  }
}

TEST(MoeFfn, NotFiniteValuesReachOnlyTheirTokens) {
  for (int i = 0; i < sweep() / 8; ++i) {
    MoeSpec spec = random_moe(static_cast<std::uint64_t>(800000 + i));
    spec.tokens = std::min<std::int64_t>(spec.tokens, 16 / spec.k + 1);  // the reference takes long
    Random random(spec.seed + 2);
    MoeOperands operands = make(spec);
    operands.options.router_weight_on_input = i % 5 == 0;
    for (const float special : special_values) {
      for (const bool in_weights : {false, true}) {
        SCOPED_TRACE(fmt::format("{} in {}, {}", special, in_weights ? "weights" : "x", describe(spec)));
        MoeOperands changed = operands;
        array& target = in_weights ? *changed.weights : changed.x;
        const std::int64_t token = random.integer(0, spec.tokens - 1);
        target = with_value(target, token * target.dim(-1) + random.integer(0, target.dim(-1) - 1), special);
        std::vector<std::int64_t> others = all_tokens(spec);
        others.erase(others.begin() + token);
        expect_flow(operands, changed, others);
        if (!in_weights || std::isnan(special)) {
          EXPECT_TRUE(keeps(judge(changed, changed.call())));
        } else if (!spec.shared && !operands.options.router_weight_on_input) {
          // The sign of Inf · slot is that of the computed slot, which the reference does not know where the slot is almost 0.
          const array slots = changed.call_with([](MoeOperands& o) { o.weights.reset(); });
          EXPECT_TRUE(same_bits(moe_combine(slots, *changed.weights), changed.call()));
        }
        if (std::isnan(special)) {
          const array y = rows(changed.call(), {token});
          for (std::int64_t n = 0; n < spec.H; ++n) {
            EXPECT_TRUE(std::isnan(load_float(y.bytes() + n * y.itemsize(), y.dtype()))) << "output " << n;
          }
        }
      }
    }
  }
}

/// Puts a value that is not finite into the scales of an expert, or into their biases.
void spoil(QuantizedWeights& weights, std::int64_t expert, Random& random) {
  const bool in_biases = weights.biases && random.chance(0.5);
  array& target = in_biases ? *weights.biases : weights.scales;
  const std::int64_t of_expert = target.dim(-1) * target.dim(-2);
  const std::int64_t at = expert * of_expert + random.integer(0, of_expert - 1);
  if (target.dtype() != Dtype::uint8) {
    target = with_value(target, at, random.one_of(special_values));
    return;
  }
  const bool e8m0 = weights.mode != Mode::nvfp4;
  target = copy_row_major(target);
  target.mutable_bytes()[at] = e8m0 ? std::byte{0xff} : std::byte{0x7f};  // Inf and NaN
}

TEST(MoeFfn, NotFiniteScalesReachOnlyTheTokensOfTheirExpert) {
  for (int i = 0; i < sweep() / 4; ++i) {
    MoeSpec spec = random_moe(static_cast<std::uint64_t>(805000 + i));
    spec.tokens = std::min<std::int64_t>(spec.tokens, 16 / spec.k + 1);
    spec.gate.packed = spec.up.packed = spec.down.packed = false;
    SCOPED_TRACE(describe(spec));
    Random random(spec.seed + 2);
    const MoeOperands operands = make(spec);
    const std::int64_t expert = expert_of(operands, random.integer(0, spec.tokens * spec.k - 1));
    std::vector<std::int64_t> others;
    for (std::int64_t token = 0; token < spec.tokens; ++token) {
      const std::int32_t* const ids = operands.ids.data<std::int32_t>() + token * spec.k;
      if (std::find(ids, ids + spec.k, expert) == ids + spec.k) {
        others.push_back(token);
      }
    }
    MoeOperands changed = operands;
    const std::vector<ExpertWeights*> layers = layers_of(changed);
    const std::size_t number = static_cast<std::size_t>(i) % layers.size();
    auto* const weights = std::get_if<QuantizedWeights>(layers[number]);
    if (weights == nullptr) {
      continue;  // a dense layer
    }
    spoil(*weights, expert, random);
    SCOPED_TRACE(fmt::format("layer {} of gate, down, up", number));
    expect_flow(operands, changed, others);
    const array in_place = changed.call();
    EXPECT_TRUE(keeps(judge(changed, in_place)));  // the same NaN or Inf where the reference has one
    *layers[number] = pack(*weights);
    EXPECT_TRUE(same_bits(in_place, changed.call())) << "packed";
  }
}

TEST(MoeFfn, TakesManyExpertsAndLongTokenLists) {
  const Storage storage = {.format = find_format(Mode::affine, 4), .group_size = 32, .dtype = Dtype::float16};
  MoeSpec spec = {.tokens = quick() ? 40 : 300,
                  .k = 2,
                  .experts = 16384,
                  .H = 32,
                  .I = 32,
                  .dtype = Dtype::bfloat16,
                  .gate = storage,
                  .up = storage,
                  .down = storage,
                  .seed = 810000};
  const MoeOperands operands = make(spec);
  const array y = operands.call();
  MoeOperands few = operands;  // the reference takes long
  take_tokens(few, {0, 7, 31});
  const array of_few = few.call();
  EXPECT_TRUE(same_bits(rows(y, {0, 7, 31}), of_few));
  EXPECT_TRUE(keeps(judge(few, of_few)));
  for (const std::int64_t token : {std::int64_t{0}, spec.tokens - 1}) {
    EXPECT_TRUE(same_bits(rows(y, {token}), operands.call_with([&](MoeOperands& o) { take_tokens(o, {token}); })));
  }
  // All tokens take one expert, in all of their slots.
  const array one = operands.call_with([&](MoeOperands& o) {
    o.ids = array::empty(o.ids.shape(), Dtype::uint8);
    std::fill_n(o.ids.mutable_bytes(), o.ids.nbytes(), std::byte{7});
  });
  const array alone = operands.call_with([&](MoeOperands& o) {
    o.ids = array::empty(o.ids.shape(), Dtype::uint16);
    std::fill_n(o.ids.mutable_data<std::uint16_t>(), o.ids.size(), std::uint16_t{7});
    take_tokens(o, {1});
  });
  EXPECT_TRUE(same_bits(rows(one, {1}), alone));
}

TEST(MoeFfn, TakesAnyNumberOfSlotsFrom1To16) {
  for (std::int64_t k = 1; k <= 16; ++k) {
    for (const Dtype dtype : compute_types) {
      MoeSpec spec = with_layers(four_bits, static_cast<std::uint64_t>(811000 + k));
      spec.k = k;
      spec.dtype = dtype;
      spec.experts = 12;
      SCOPED_TRACE(describe(spec));
      const MoeOperands operands = make(spec);
      const array y = operands.call();
      EXPECT_TRUE(keeps(judge(operands, y)));
      const array slots = operands.call_with([](MoeOperands& o) { o.weights.reset(); });
      EXPECT_TRUE(same_bits(y, moe_combine(slots, *operands.weights)));
    }
  }
}

// Each slot of the token counts, with its own weight.
TEST(MoeFfn, ATokenMayHaveOneExpertInSeveralSlots) {
  for (const Dtype dtype : compute_types) {
    MoeSpec spec = with_layers(four_bits, 812000);
    spec.k = 4;
    spec.dtype = dtype;
    MoeOperands operands = make(spec);
    set_ids(operands, [](std::int64_t slot) { return slot % 4 == 1 ? 2 : 3; });  // 3, 2, 3, 3
    const array slots = operands.call_with([](MoeOperands& o) { o.weights.reset(); });
    const std::int64_t row_bytes = spec.H * slots.itemsize();
    for (std::int64_t token = 0; token < spec.tokens; ++token) {
      const std::byte* const first = slots.bytes() + token * spec.k * row_bytes;
      for (const std::int64_t j : {2, 3}) {
        EXPECT_TRUE(std::equal(first, first + row_bytes, first + j * row_bytes)) << "token " << token << ", slot " << j;
      }
      EXPECT_FALSE(std::equal(first, first + row_bytes, first + row_bytes)) << "token " << token;
    }
    const array y = operands.call();
    EXPECT_TRUE(same_bits(y, moe_combine(slots, *operands.weights)));
    EXPECT_TRUE(keeps(judge(operands, y)));
  }
}

TEST(MoeFfn, ExpertsWithoutTokensAreNotRead) {
  for (const Storage& storage : {four_bits, Storage{.dtype = Dtype::bfloat16}}) {
    MoeSpec spec = with_layers(storage, 813000);
    spec.experts = 6;
    spec.biases = true;
    MoeOperands operands = make(spec);
    set_ids(operands, [](std::int64_t slot) { return slot % 2 == 0 ? 1 : 4; });
    const array expected = operands.call();
    MoeOperands changed = operands;
    for (array* a : arrays_of(changed)) {
      if (a->dim(0) != spec.experts) {
        continue;  // x, ids and weights
      }
      *a = copy_row_major(*a);
      const std::int64_t bytes = static_cast<std::int64_t>(a->nbytes()) / spec.experts;
      for (const std::int64_t expert : {0, 2, 3, 5}) {
        std::fill_n(a->mutable_bytes() + expert * bytes, bytes, std::byte{0xff});  // NaN in all float types
      }
    }
    EXPECT_TRUE(same_bits(expected, changed.call())) << describe(spec);
  }
}

TEST(MoeFfn, EmptyCalls) {
  const Storage storage = {.format = find_format(Mode::affine, 4), .group_size = 32, .dtype = Dtype::float16};
  MoeSpec spec = {.gate = storage, .up = storage, .down = storage};
  spec.tokens = 0;
  EXPECT_EQ(make(spec).call().shape(), (Shape{0, spec.H}));
  EXPECT_EQ(make(spec).call_with([](MoeOperands& o) { o.weights.reset(); }).shape(), (Shape{0, spec.k, spec.H}));
  spec.tokens = 2;
  spec.k = 0;
  const array zeros = make(spec).call();
  EXPECT_EQ(zeros.shape(), (Shape{2, spec.H}));
  EXPECT_TRUE(std::all_of(zeros.bytes(), zeros.bytes() + zeros.nbytes(), [](std::byte b) { return b == std::byte{0}; }));
  // Shared experts alone.
  spec.shared = true;
  const array shared = make(spec).call();
  EXPECT_FALSE(std::all_of(shared.bytes(), shared.bytes() + shared.nbytes(), [](std::byte b) { return b == std::byte{0}; }));
}

TEST(MoeFfn, StridesAreFree) {
  const Storage storage = {.format = find_format(Mode::affine, 4), .group_size = 32, .dtype = Dtype::float16};
  const MoeSpec spec = {.tokens = 6, .biases = true, .gate = storage, .up = storage, .down = storage, .seed = 820000};
  const MoeOperands operands = make(spec);
  Random random(820001);
  for (int i = 0; i < sweep() / 4; ++i) {
    MoeOperands strided = operands;
    for (array* a : arrays_of(strided)) {
      *a = lay_out({a->bytes(), a->nbytes()}, a->shape(), a->dtype(), random.one_of(all_layouts), random);
    }
    MoeOperands plain = strided;  // strides of zero have changed values
    for (array* a : arrays_of(plain)) {
      *a = copy_row_major(*a);
    }
    EXPECT_TRUE(same_bits(plain.call(), strided.call())) << "number " << i;
  }
}

TEST(MoeFfn, OperandsMayLieAtOddAddresses) {
  for (const Format& format : formats()) {
    for (const Dtype dtype : compute_types) {
      MoeSpec spec = with_layers({.format = &format, .group_size = format.default_group_size, .dtype = dtype}, 821000);
      spec.H = spec.I = 128;
      spec.dtype = dtype;
      spec.biases = true;
      SCOPED_TRACE(describe(spec));
      Random random(821001);
      const MoeOperands aligned = make(spec);
      MoeOperands odd = aligned;
      for (array* a : arrays_of(odd)) {
        *a = lay_out({a->bytes(), a->nbytes()}, a->shape(), a->dtype(), Layout::odd_address, random);
        EXPECT_EQ(reinterpret_cast<std::uintptr_t>(a->bytes()) % 2, 1U);
      }
      EXPECT_TRUE(same_bits(aligned.call(), odd.call()));
    }
  }
}

}  // namespace
}  // namespace gqmm::conformance
