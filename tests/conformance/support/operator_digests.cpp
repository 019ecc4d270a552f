#include "conformance/support/attention_operands.hpp"
#include "conformance/support/convolution_operands.hpp"
#include "conformance/support/digests.hpp"
#include "conformance/support/gated_delta_operands.hpp"
#include "conformance/support/moe_problems.hpp"
#include "conformance/support/ssm_operands.hpp"
#include "formats/registry.hpp"

#include <fmt/format.h>

#include <cmath>
#include <iterator>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

namespace gqmm::conformance {

using namespace detail;

namespace {

constexpr Precision precisions[] = {Precision::standard, Precision::fast, Precision::float32};
constexpr int problems_of_an_operator = 24;

// --- Operands -------------------------------------------------------------------------------------------------------------

array random_floats(const Shape& shape, Random& random) {
  return in_any_layout(normal(shape, random.one_of(compute_types), random), random);
}

/// Weights of any format whose matrices have `rows` rows of one to three groups.
QuantizedWeights random_weights(Shape leading, std::int64_t rows, Random& random) {
  const std::span<const Format> all = formats();
  const Format& format = all[static_cast<std::size_t>(random.integer(0, std::ssize(all) - 1))];
  const auto sizes = format.group_sizes;
  const int group_size = sizes[static_cast<std::size_t>(random.integer(0, std::ssize(sizes) - 1))];
  leading.push_back(rows);
  leading.push_back(group_size * random.integer(1, 3));
  QuantizedWeights weights = quantize(normal(leading, random.one_of(compute_types), random, 0.1),
                                      {.group_size = group_size, .bits = format.bits, .mode = format.mode});
  weights.transpose = random.chance(0.8);
  return weights;
}

std::int64_t inputs_of(const QuantizedWeights& weights) {
  return weights.shape()[weights.shape().size() - (weights.transpose ? 1 : 2)];
}
std::int64_t outputs_of(const QuantizedWeights& weights) {
  return weights.shape()[weights.shape().size() - (weights.transpose ? 2 : 1)];
}

/// The ends of groups that have `rows` rows together.
array random_offsets(std::int64_t experts, std::int64_t rows, Random& random) {
  std::vector<std::int64_t> ends(static_cast<std::size_t>(experts), rows);
  for (std::size_t e = 0; e + 1 < ends.size(); ++e) {
    ends[e] = random.integer(e == 0 ? 0 : ends[e - 1], rows);
  }
  return integers(ends);
}

array random_experts(const Shape& shape, std::int64_t experts, Random& random) {
  array indices = array::empty(shape, Dtype::int64);
  for (std::int64_t i = 0; i < indices.size(); ++i) {
    indices.mutable_data<std::int64_t>()[i] = random.integer(0, experts - 1);
  }
  return indices;
}

QuantizedWrt every_gradient(const QuantizedWeights& weights) {
  const bool affine = weights.mode == Mode::affine;
  return {.x = true, .scales = affine, .biases = affine};
}

// --- Digests of several arrays --------------------------------------------------------------------------------------------

void add(Hash& hash, const array& a) { hash.add(a); }
void add(Hash& hash, const QuantizedWeights& weights) {
  hash.add(weights.w);
  hash.add(weights.scales);
  if (weights.biases) {
    hash.add(*weights.biases);
  }
}
void add(Hash& hash, const PackedWeights& weights) { add(hash, unpack(weights)); }
void add(Hash& hash, const ExpertWeights& weights) {
  std::visit([&](const auto& form) { add(hash, form); }, weights);
}
void add(Hash& hash, const AttentionMask& mask) {
  hash.add(mask.index());
  if (const auto* values = std::get_if<array>(&mask)) {
    hash.add(*values);
  }
}
void add(Hash& hash, const SharedExperts& shared);
template <class T>
void add(Hash& hash, const std::optional<T>& a) {
  if (a) {
    add(hash, *a);
  }
}
void add(Hash& hash, const QuantizedGradients& gradients) {
  add(hash, gradients.x);
  add(hash, gradients.scales);
  add(hash, gradients.biases);
}
void add(Hash& hash, const LayerGradients& gradients) {
  add(hash, gradients.scales);
  add(hash, gradients.biases);
  add(hash, gradients.weights);
  add(hash, gradients.bias);
}
void add(Hash& hash, const SharedExperts& shared) {
  add(hash, shared.gate);
  add(hash, shared.up);
  add(hash, shared.down);
  add(hash, shared.down_bias);
  add(hash, shared.scale);
}
void add(Hash& hash, const MoeOperands& o) {
  add(hash, o.x);
  add(hash, o.ids);
  add(hash, o.weights);
  add(hash, o.gate);
  add(hash, o.up);
  add(hash, o.down);
  for (const std::optional<array>* bias : {&o.options.gate_bias, &o.options.up_bias, &o.options.down_bias}) {
    add(hash, *bias);
  }
  add(hash, o.options.shared);
}

/// The digest of several arrays, or of what holds arrays.
template <class... Values>
std::uint64_t hash_of(const Values&... values) {
  Hash hash;
  (add(hash, values), ...);
  return hash.value();
}

// --- Products -------------------------------------------------------------------------------------------------------------

DigestProblem quantized_matmul_problem(Random& random) {
  const QuantizedWeights weights = random_weights({}, random.integer(1, 80), random);
  const array x = random_floats({random.integer(1, 24), inputs_of(weights)}, random);
  const QuantizedMatmulOptions options = {.precision = random.one_of(precisions)};
  const bool packed = random.chance(0.3);
  return {.operands = hash_of(x, weights), .result = [=] {
            return hash_of(packed ? quantized_matmul(x, pack(weights), options) : quantized_matmul(x, weights, options));
          }};
}

DigestProblem quantized_matmul_vjp_problem(Random& random) {
  const QuantizedWeights weights = random_weights({}, random.integer(1, 80), random);
  const std::int64_t M = random.integer(1, 24);
  const array x = random_floats({M, inputs_of(weights)}, random);
  const array dy = random_floats({M, outputs_of(weights)}, random);
  return {.operands = hash_of(dy, x, weights),
          .result = [=] { return hash_of(quantized_matmul_vjp(dy, x, weights, {.wrt = every_gradient(weights)})); }};
}

DigestProblem gather_qmm_vjp_problem(Random& random) {
  const std::int64_t experts = random.integer(1, 5);
  const std::int64_t tokens = random.integer(1, 24);
  const QuantizedWeights weights = random_weights({experts}, random.integer(1, 80), random);
  const array x = random_floats({tokens, 1, 1, inputs_of(weights)}, random);
  const array dy = random_floats({tokens, 2, 1, outputs_of(weights)}, random);
  const array rhs = random_experts({tokens, 2}, experts, random);
  return {.operands = hash_of(dy, x, weights, rhs), .result = [=] {
            return hash_of(gather_qmm_vjp(dy, x, weights, {.rhs_indices = rhs, .wrt = every_gradient(weights)}));
          }};
}

DigestProblem gather_mm_vjp_problem(Random& random) {
  const std::int64_t experts = random.integer(1, 5);
  const std::int64_t tokens = random.integer(1, 24);
  const std::int64_t N = random.integer(1, 80);
  const std::int64_t K = random.integer(1, 200);
  const array a = random_floats({tokens, 1, 1, K}, random);
  const array b = random_floats({experts, K, N}, random);
  const array dy = random_floats({tokens, 2, 1, N}, random);
  const array rhs = random_experts({tokens, 2}, experts, random);
  return {.operands = hash_of(dy, a, b, rhs), .result = [=] {
            const DenseGradients gradients = gather_mm_vjp(dy, a, b, {.rhs_indices = rhs});
            return hash_of(gradients.a, gradients.b);
          }};
}

DigestProblem grouped_qmm_problem(Random& random) {
  const std::int64_t experts = random.integer(1, 5);
  const std::int64_t rows = random.integer(1, 60);
  const QuantizedWeights weights = random_weights({experts}, random.integer(1, 80), random);
  const array x = random_floats({rows, inputs_of(weights)}, random);
  const array dy = random_floats({rows, outputs_of(weights)}, random);
  const array offsets = random_offsets(experts, rows, random);
  const GroupedQmmOptions options = {.precision = random.one_of(precisions)};
  return {.operands = hash_of(dy, x, weights, offsets), .result = [=] {
            return hash_of(grouped_qmm(x, weights, offsets, options),
                           grouped_qmm_vjp(dy, x, weights, offsets, {.wrt = every_gradient(weights)}));
          }};
}

DigestProblem grouped_mm_problem(Random& random) {
  const std::int64_t experts = random.integer(1, 5);
  const std::int64_t rows = random.integer(1, 60);
  const std::int64_t N = random.integer(1, 80);
  const array b = random_floats({experts, random.integer(1, 200), N}, random);
  const array x = random_floats({rows, b.dim(1)}, random);
  const array dy = random_floats({rows, N}, random);
  const array offsets = random_offsets(experts, rows, random);
  return {.operands = hash_of(dy, x, b, offsets), .result = [=] {
            const GroupedMmGradients gradients = grouped_mm_vjp(dy, x, b, offsets);
            return hash_of(grouped_mm(x, b, offsets), gradients.x, gradients.b);
          }};
}

// --- Expert layers --------------------------------------------------------------------------------------------------------

DigestProblem moe_ffn_problem(Random& random) {
  const MoeSpec spec = random_moe(random.bits());
  const MoeOperands operands = make(spec);
  return {.description = describe(spec), .operands = hash_of(operands), .result = [=] { return hash_of(operands.call()); }};
}

/// The gradients of a layer that exist.
LayerWrt every_gradient(const ExpertWeights& weights, const std::optional<array>& bias) {
  const auto* in_place = std::get_if<QuantizedWeights>(&weights);
  const auto* packed = std::get_if<PackedWeights>(&weights);
  const bool affine =
      (in_place != nullptr && in_place->mode == Mode::affine) || (packed != nullptr && packed->mode() == Mode::affine);
  return {.scales = affine, .biases = affine, .weights = std::holds_alternative<array>(weights), .bias = bias.has_value()};
}

DigestProblem moe_ffn_vjp_problem(Random& random) {
  const MoeSpec spec = random_moe(random.bits());
  const MoeOperands o = make(spec);
  const array dy = random_floats(o.x.shape(), random);
  const MoeFfnVjpOptions options = {.forward = o.options,
                                    .wrt = {.x = true,
                                            .topk_weights = true,
                                            .gate = every_gradient(o.gate, o.options.gate_bias),
                                            .up = o.up ? every_gradient(*o.up, o.options.up_bias) : LayerWrt{},
                                            .down = every_gradient(o.down, o.options.down_bias)}};
  return {.description = describe(spec), .operands = hash_of(o, dy), .result = [=] {
            const MoeFfnGradients found = moe_ffn_vjp(dy, o.x, o.ids, o.weights, o.gate, o.up, o.down, options);
            return hash_of(found.x, found.topk_weights, found.gate, found.up, found.down);
          }};
}

DigestProblem moe_combine_problem(Random& random) {
  const std::int64_t tokens = random.integer(1, 20);
  const std::int64_t k = random.integer(1, 10);
  const array slots = random_floats({tokens, k, random.integer(1, 200)}, random);
  const array weights = random_floats({tokens, k}, random);
  return {.operands = hash_of(slots, weights), .result = [=] { return hash_of(moe_combine(slots, weights)); }};
}

DigestProblem activate_problem(const Activation& activation, Random& random) {
  const Shape shape = {random.integer(1, 20), random.integer(1, 200)};
  const Dtype type = random.one_of(compute_types);
  const array gate = in_any_layout(normal(shape, type, random, std::exp2(random.integer(-2, 5))), random);
  std::optional<array> up;
  if (is_gated(activation)) {
    up = in_any_layout(normal(shape, type, random), random);
  }
  return {.operands = hash_of(gate, up), .result = [=] { return hash_of(activate(gate, up, activation)); }};
}

// --- Attention and other layers -------------------------------------------------------------------------------------------

struct AttentionShape {
  std::int64_t B = 1;
  std::int64_t q_heads = 1;
  std::int64_t kv_heads = 1;
  std::int64_t T = 1;
  std::int64_t L = 1;
  std::int64_t D = 1;

  AttentionShape(Random& random, std::int64_t multiple_of_D) {
    B = random.integer(1, 3);
    kv_heads = random.integer(1, 2);
    q_heads = kv_heads * random.integer(1, 4);
    L = random.integer(1, random.chance(0.1) ? 1400 : 300);
    T = random.chance(0.4) ? 1 : random.integer(1, std::min<std::int64_t>(L, 40));
    D = multiple_of_D * random.integer(1, 128 / multiple_of_D);
  }
  [[nodiscard]] float scale() const { return 1.0F / std::sqrt(static_cast<float>(D)); }
  [[nodiscard]] Shape q() const { return {B, q_heads, T, D}; }
  [[nodiscard]] Shape kv() const { return {B, kv_heads, L, D}; }
  [[nodiscard]] Shape scores() const { return {B, q_heads, T, L}; }
};

DigestProblem attention_problem(Random& random) {
  const AttentionShape shape(random, 8);
  const Dtype type = random.one_of(compute_types);
  const auto operand = [&](const Shape& of) { return in_any_layout(normal(of, type, random), random); };
  const array q = operand(shape.q());
  const array k = operand(shape.kv());
  const array v = operand(shape.kv());
  AttentionOptions options = {.mask = random_mask(shape.scores(), random), .origin = random_origin(shape.B, shape.L, random)};
  if (random.chance(0.3)) {
    options.sinks = random_floats({shape.q_heads}, random);
  }
  return {.operands = hash_of(q, k, v, options.mask, options.sinks, options.origin),
          .result = [=] { return hash_of(scaled_dot_product_attention(q, k, v, shape.scale(), options)); }};
}

DigestProblem quantized_attention_problem(Random& random) {
  const AttentionShape shape(random, 32);
  const Dtype type = random.one_of(compute_types);
  const std::vector<int> bits = bits_of(Mode::affine);
  const QuantizeOptions settings = {.group_size = 32,
                                    .bits = bits[static_cast<std::size_t>(random.integer(0, std::ssize(bits) - 1))]};
  const array q = in_any_layout(normal(shape.q(), type, random), random);
  const QuantizedWeights keys = quantize(normal(shape.kv(), type, random), settings);
  const QuantizedWeights values = quantize(normal(shape.kv(), type, random), settings);
  const QuantizedAttentionOptions options = {.mask = random_mask(shape.scores(), random),
                                             .origin = random_origin(shape.B, shape.L, random)};
  return {.operands = hash_of(q, keys, values, options.mask, options.origin),
          .result = [=] { return hash_of(quantized_scaled_dot_product_attention(q, keys, values, shape.scale(), options)); }};
}

DigestProblem rms_norm_problem(Random& random) {
  const array x = random_floats({random.integer(1, 20), random.integer(1, 300)}, random);
  std::optional<array> weight;
  if (random.chance(0.8)) {
    weight = random_floats({x.dim(1)}, random);
  }
  return {.operands = hash_of(x, weight), .result = [=] { return hash_of(rms_norm(x, weight, 1e-6F)); }};
}

DigestProblem layer_norm_problem(Random& random) {
  const array x = random_floats({random.integer(1, 20), random.integer(1, 300)}, random);
  std::optional<array> weight;
  std::optional<array> bias;
  for (std::optional<array>* vector : {&weight, &bias}) {
    if (random.chance(0.7)) {
      *vector = random_floats({x.dim(1)}, random);
    }
  }
  return {.operands = hash_of(x, weight, bias), .result = [=] { return hash_of(layer_norm(x, weight, bias, 1e-5F)); }};
}

DigestProblem softmax_problem(Random& random) {
  const array x = random_floats({random.integer(1, 4), random.integer(1, 20), random.integer(1, 200)}, random);
  const std::vector<int> axes = random.chance(0.5) ? std::vector{-1} : random.chance(0.5) ? std::vector{1} : std::vector{0, 2};
  return {.operands = hash_of(x), .result = [=] { return hash_of(softmax(x, axes)); }};
}

DigestProblem convolution_problem(Random& random) {
  const ConvolutionCall call(random.bits());
  return {.operands = hash_of(call.x, call.weight), .result = [=] { return hash_of(call.run()); }};
}

DigestProblem gated_delta_problem(Random& random) {
  const GatedDeltaCall call(random.bits());
  const GatedDeltaOptions& options = call.options;
  return {.operands = hash_of(call.q, call.k, call.v, call.g, call.beta, options.state, options.mask), .result = [=] {
            const GatedDeltaResult result = call.run();
            return hash_of(result.y, result.state);
          }};
}

DigestProblem ssm_problem(Random& random) {
  const SsmCall call(random.bits());
  const SsmOptions& options = call.options;
  return {.operands = hash_of(call.v, call.A_log, call.B, call.C, call.D, call.dt, call.dt_bias, options.state, options.mask,
                              options.lengths),
          .result = [=] {
            const SsmResult result = call.run();
            return hash_of(result.y, result.state);
          }};
}

DigestProblem rope_problem(Random& random) {
  const int dims = static_cast<int>(2 * random.integer(1, 64));
  const array x =
      random_floats({random.integer(1, 3), random.integer(1, 4), random.integer(1, 20), dims + random.integer(0, 9)}, random);
  RopeOptions options = {.traditional = random.chance(0.5), .scale = random.chance(0.5) ? 1.0F : 0.25F};
  if (random.chance(0.7)) {
    options.base = random.chance(0.5) ? 10000.0F : 1e6F;
  } else {
    array freqs = array::empty({dims / 2}, Dtype::float32);
    for (std::int64_t i = 0; i < freqs.size(); ++i) {
      freqs.mutable_data<float>()[i] = static_cast<float>(random.uniform(1, 4096));
    }
    options.freqs = freqs;
  }
  if (random.chance(0.5)) {
    options.offset = random.integer(0, 100000);
  } else {
    std::vector<std::int64_t> offsets;
    for (std::int64_t b = 0; b < x.dim(0); ++b) {
      offsets.push_back(random.integer(-50, 5000));
    }
    options.offset = integers(offsets);
  }
  return {.operands = hash_of(x, options.freqs), .result = [=] { return hash_of(rope(x, dims, options)); }};
}

// --- Weights --------------------------------------------------------------------------------------------------------------

DigestProblem quantize_problem(const Format& format, Random& random) {
  const auto sizes = format.group_sizes;
  const int group_size = sizes[static_cast<std::size_t>(random.integer(0, std::ssize(sizes) - 1))];
  const array w = random_floats({random.integer(1, 8), group_size * random.integer(1, 4)}, random);
  return {.operands = hash_of(w), .result = [=, &format] {
            const QuantizedWeights weights = quantize(w, {.group_size = group_size, .bits = format.bits, .mode = format.mode});
            return hash_of(weights, dequantize(weights));
          }};
}

/// Problem number `number` has a seed of its own, so that a case can grow without a change of those that it has.
template <class Problem>
DigestCase case_of(std::string name, const Problem& problem) {
  return {.name = name, .problems = problems_of_an_operator, .problem = [name, problem](int number) {
            Hash seed;
            seed.add(std::as_bytes(std::span(name)));
            Random random(seed.value() + static_cast<std::uint64_t>(number));
            DigestProblem made = problem(random);
            made.description = fmt::format("{} {}: {}", name, number, made.description);
            return made;
          }};
}

struct NamedActivation {
  const char* name;
  Activation activation;
};
const NamedActivation activations[] = {{"swiglu", SwiGLU{}},
                                       {"swiglu_clipped", SwiGLU{.alpha = 1.702F, .limit = 7.0F, .bias = 1.0F}},
                                       {"geglu", GeGLU{}},
                                       {"geglu_tanh", GeGLU{.approximate = GeluApproximation::tanh}},
                                       {"situ", SiTU{.beta = 4.0F}},
                                       {"situ_linear_beta", SiTU{.beta = 0.3F, .linear_beta = 25.0F}},
                                       {"swiglu_step", SwiGLUStep{.limit = 2.5F}},
                                       {"silu", SiLU{}},
                                       {"gelu", GELU{}},
                                       {"gelu_tanh", GELU{.approximate = GeluApproximation::tanh}},
                                       {"relu2", ReLU2{}}};

}  // namespace

std::vector<DigestCase> operator_cases() {
  std::vector<DigestCase> cases = {
      case_of("quantized_matmul", quantized_matmul_problem),
      case_of("quantized_matmul_vjp", quantized_matmul_vjp_problem),
      case_of("gather_qmm_vjp", gather_qmm_vjp_problem),
      case_of("gather_mm_vjp", gather_mm_vjp_problem),
      case_of("grouped_qmm_and_vjp", grouped_qmm_problem),
      case_of("grouped_mm_and_vjp", grouped_mm_problem),
      case_of("moe_ffn", moe_ffn_problem),
      case_of("moe_ffn_vjp", moe_ffn_vjp_problem),
      case_of("moe_combine", moe_combine_problem),
      case_of("scaled_dot_product_attention", attention_problem),
      case_of("quantized_scaled_dot_product_attention", quantized_attention_problem),
      case_of("rms_norm", rms_norm_problem),
      case_of("layer_norm", layer_norm_problem),
      case_of("softmax", softmax_problem),
      case_of("rope", rope_problem),
      case_of("gated_delta_update", gated_delta_problem),
      case_of("depthwise_conv1d", convolution_problem),
      case_of("ssm_update", ssm_problem),
  };
  for (const NamedActivation& each : activations) {
    cases.push_back(case_of(fmt::format("activate_{}", each.name),
                            [activation = each.activation](Random& random) { return activate_problem(activation, random); }));
  }
  for (const Format& format : formats()) {
    cases.push_back(case_of(fmt::format("quantize_{}_{}bit", gqmm::name_of(format.mode), format.bits),
                            [&format](Random& random) { return quantize_problem(format, random); }));
  }
  return cases;
}

}  // namespace gqmm::conformance
