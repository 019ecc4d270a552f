#include "conformance/support/moe_problems.hpp"

#include "api/lower.hpp"
#include "formats/float_types.hpp"
#include "formats/registry.hpp"
#include "reference/moe.hpp"
#include "reference/reference.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <span>

namespace gqmm::conformance {

using namespace detail;

namespace {

constexpr Dtype compute_types[] = {Dtype::float32, Dtype::float16, Dtype::bfloat16};
constexpr GateUpOrder orders[] = {GateUpOrder::gate_up, GateUpOrder::up_gate, GateUpOrder::interleaved};

const Activation activations[] = {SwiGLU{},
                                  SwiGLU{.alpha = 1.702F, .limit = 7.0F, .bias = 1.0F},
                                  GeGLU{},
                                  GeGLU{.approximate = GeluApproximation::tanh},
                                  SiTU{.beta = 4.0F, .linear_beta = 25.0F},
                                  SwiGLUStep{.limit = 0.5F},
                                  SiLU{},
                                  GELU{},
                                  ReLU2{}};

ExpertWeights layer(const Storage& storage, std::int64_t experts, std::int64_t N, std::int64_t K, Random& random) {
  const double deviation = 1.0 / std::sqrt(static_cast<double>(K));
  if (storage.format == nullptr) {
    return floats({experts, N, K}, storage.dtype, deviation, random);
  }
  const Shape shape = storage.transpose ? Shape{experts, N, K} : Shape{experts, K, N};
  QuantizedWeights weights =
      quantize(floats(shape, storage.dtype, deviation, random),
               {.group_size = storage.group_size, .bits = storage.format->bits, .mode = storage.format->mode});
  weights.transpose = storage.transpose;
  if (storage.packed) {
    return pack(weights);
  }
  return weights;
}

std::optional<array> bias(const MoeSpec& spec, const Shape& shape, Random& random) {
  return spec.biases ? std::optional(floats(shape, random.one_of(compute_types), 0.5, random)) : std::nullopt;
}

/// A storage at random that fits rows of K along k, or rows of N along n.
Storage random_storage(std::int64_t N, std::int64_t K, Random& random) {
  for (;;) {
    Storage storage;
    storage.dtype = random.one_of(compute_types);
    if (random.chance(0.15)) {
      return storage;
    }
    const std::span<const Format> all = formats();
    storage.format = &all[static_cast<std::size_t>(random.integer(0, static_cast<std::int64_t>(all.size()) - 1))];
    const auto sizes = storage.format->group_sizes;
    storage.group_size = sizes[static_cast<std::size_t>(random.integer(0, static_cast<std::int64_t>(sizes.size()) - 1))];
    storage.packed = random.chance(0.5);
    storage.transpose = random.chance(0.85);
    if ((storage.transpose ? K : N) % storage.group_size == 0) {
      return storage;
    }
  }
}

}  // namespace

std::string describe(const MoeSpec& spec) {
  const auto storage = [](const Storage& s) {
    return s.format == nullptr ? fmt::format("dense {}", gqmm::name_of(s.dtype))
                               : fmt::format("{} {}-bit g{} {}{}{}", gqmm::name_of(s.format->mode), s.format->bits, s.group_size,
                                             gqmm::name_of(s.dtype), s.packed ? " packed" : "", s.transpose ? "" : " along n");
  };
  return fmt::format(
      "seed {}: {} tokens, k {}, E {}, H {}, I {}, {} {}, {}, up {}, {}, biases {}, shared {}; gate {}; up {}; down {}",
      spec.seed, spec.tokens, spec.k, spec.experts, spec.H, spec.I, gqmm::name_of(spec.dtype), gqmm::name_of(spec.precision),
      gqmm::name_of(spec.activation), spec.separate_up, gqmm::name_of(spec.order), spec.biases, spec.shared, storage(spec.gate),
      storage(spec.up), storage(spec.down));
}

array floats(const Shape& shape, Dtype dtype, double deviation, Random& random) {
  array a = array::empty(shape, dtype);
  for (std::int64_t i = 0; i < a.size(); ++i) {
    store_float(a.mutable_bytes() + i * a.itemsize(), dtype, static_cast<float>(random.normal() * deviation));
  }
  return a;
}

MoeOperands make(const MoeSpec& spec) {
  Random random(spec.seed);
  const bool both = is_gated(spec.activation) && !spec.separate_up;
  const std::int64_t gate_outputs = both ? 2 * spec.I : spec.I;
  MoeOperands operands;
  operands.x = floats({spec.tokens, spec.H}, spec.dtype, 1.0, random);
  array ids = array::empty({spec.tokens, spec.k}, Dtype::int32);
  for (std::int64_t i = 0; i < ids.size(); ++i) {
    ids.mutable_data<std::int32_t>()[i] = static_cast<std::int32_t>(random.integer(0, spec.experts - 1));
  }
  operands.ids = ids;
  operands.weights = floats({spec.tokens, spec.k}, random.one_of(compute_types), 0.7, random);
  operands.gate = layer(spec.gate, spec.experts, gate_outputs, spec.H, random);
  if (is_gated(spec.activation) && spec.separate_up) {
    operands.up = layer(spec.up, spec.experts, spec.I, spec.H, random);
    operands.options.up_bias = bias(spec, {spec.experts, spec.I}, random);
  }
  operands.down = layer(spec.down, spec.experts, spec.H, spec.I, random);
  operands.options.gate_bias = bias(spec, {spec.experts, gate_outputs}, random);
  operands.options.down_bias = bias(spec, {spec.experts, spec.H}, random);
  operands.options.activation = spec.activation;
  operands.options.gate_up_order = spec.order;
  operands.options.precision = spec.precision;
  if (spec.shared) {
    SharedExperts shared;
    const Storage dense = {.dtype = Dtype::bfloat16};
    shared.gate = layer(spec.shared_I % 32 == 0 ? spec.gate : dense, 1, both ? 2 * spec.shared_I : spec.shared_I, spec.H, random);
    if (operands.up) {
      shared.up = layer(spec.shared_I % 32 == 0 ? spec.up : dense, 1, spec.shared_I, spec.H, random);
    }
    shared.down = layer(dense, 1, spec.H, spec.shared_I, random);
    shared.down_bias = bias(spec, {spec.H}, random);
    if (random.chance(0.5)) {
      shared.scale = floats({spec.tokens, 1}, random.one_of(compute_types), 1.0, random);
    }
    operands.options.shared = shared;
  }
  return operands;
}

MoeSpec random_moe(std::uint64_t seed) {
  constexpr std::int64_t lengths[] = {32, 64, 96, 128, 160};
  Random random(seed);
  MoeSpec spec;
  spec.seed = seed;
  spec.tokens = random.chance(0.3) ? 1 : random.integer(1, 24);
  spec.k = random.integer(1, random.chance(0.1) ? 16 : 4);
  spec.experts = random.integer(1, 6);
  spec.H = random.one_of(lengths);
  spec.I = random.one_of(lengths);
  spec.dtype = random.one_of(compute_types);
  spec.precision = random.chance(0.6) ? Precision::standard : random.chance(0.5) ? Precision::fast : Precision::float32;
  spec.activation = activations[random.integer(0, static_cast<std::int64_t>(std::size(activations)) - 1)];
  spec.separate_up = random.chance(0.5);
  spec.order = random.one_of(orders);
  spec.biases = random.chance(0.5);
  spec.shared = random.chance(0.3);
  spec.shared_I = random.one_of(lengths);
  const bool both = is_gated(spec.activation) && !spec.separate_up;
  const std::int64_t gate_outputs = both ? 2 * spec.I : spec.I;
  // Dense layers may have outputs of any number; those of quantized ones are groups of the next layer.
  spec.gate = random_storage(gate_outputs, spec.H, random);
  spec.up = random_storage(spec.I, spec.H, random);
  spec.down = random_storage(spec.H, spec.I, random);
  const auto along_n = [](const Storage& storage) { return storage.format != nullptr && !storage.transpose; };
  if (spec.shared && (along_n(spec.gate) || along_n(spec.up))) {
    spec.shared_I = spec.I;
  }
  return spec;
}

array rows(const array& a, const std::vector<std::int64_t>& order) {
  Shape shape = a.shape();
  shape[0] = static_cast<std::int64_t>(order.size());
  array taken = array::empty(shape, a.dtype());
  const std::int64_t bytes = a.dim(0) == 0 ? 0 : static_cast<std::int64_t>(a.nbytes()) / a.dim(0);
  for (std::size_t i = 0; i < order.size(); ++i) {
    std::copy_n(a.bytes() + order[i] * bytes, bytes, taken.mutable_bytes() + static_cast<std::int64_t>(i) * bytes);
  }
  return taken;
}

void take_tokens(MoeOperands& operands, const std::vector<std::int64_t>& order) {
  operands.x = rows(operands.x, order);
  operands.ids = rows(operands.ids, order);
  if (operands.weights) {
    operands.weights = rows(*operands.weights, order);
  }
  if (operands.options.shared && operands.options.shared->scale) {
    operands.options.shared->scale = rows(*operands.options.shared->scale, order);
  }
}

MoeJudgement judge(const MoeOperands& operands, const array& y) {
  const LoweredMoe lowered =
      lower_moe_ffn(operands.x, operands.ids, operands.weights, operands.gate, operands.up, operands.down, operands.options);
  const std::vector<MoeReference> reference = reference_moe(lowered.problem);
  EXPECT_EQ(static_cast<std::int64_t>(reference.size()), y.size());
  MoeJudgement worst;
  for (std::int64_t n = 0; n < std::min(y.size(), static_cast<std::int64_t>(reference.size())); ++n) {
    const MoeReference& expected = reference[static_cast<std::size_t>(n)];
    const float actual = load_float(y.bytes() + n * y.itemsize(), y.dtype());
    const double fraction = error_fraction(expected.y, expected.bound, actual);
    if (fraction > worst.worst) {
      worst = {.worst = fraction, .at = n, .expected = expected.y, .actual = actual, .bound = expected.bound};
    }
  }
  return worst;
}

::testing::AssertionResult keeps(const MoeJudgement& j) {
  if (j.worst <= 1) {
    return ::testing::AssertionSuccess();
  }
  return ::testing::AssertionFailure() << fmt::format(
             "worst element {}: expected {:.9g}, actual {:.9g}, {:.3g} times the bound {:.3g}", j.at, j.expected, j.actual,
             j.worst, j.bound);
}

}  // namespace gqmm::conformance
