#include "conformance/support/moe_gradient_oracle.hpp"

#include "api/lower.hpp"
#include "formats/float_types.hpp"
#include "reference/activation.hpp"
#include "reference/reference.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <iterator>
#include <limits>
#include <numbers>
#include <optional>
#include <utility>
#include <variant>
#include <vector>

namespace gqmm::conformance {

using namespace detail;

namespace {

constexpr double unit_roundoff = 0x1p-24;
/// More than what an elementary function loses where it leaves the normal range.
constexpr double underflow = 0x1p-120;

std::size_t to_size(std::int64_t count) { return static_cast<std::size_t>(count); }

/// A number, and how far the computed one may be from it.
struct Estimate {
  double value = 0;
  double error = 0;
};
using Row = std::vector<Estimate>;

Estimate rounded(double value, double error) { return {value, error + unit_roundoff * (std::fabs(value) + error) + 0x1p-149}; }
Estimate operator-(const Estimate& a) { return {-a.value, a.error}; }
Estimate operator+(const Estimate& a, const Estimate& b) { return rounded(a.value + b.value, a.error + b.error); }
double product_error(const Estimate& a, const Estimate& b) {
  return std::fabs(a.value) * b.error + std::fabs(b.value) * a.error + a.error * b.error;
}
Estimate operator*(const Estimate& a, const Estimate& b) { return rounded(a.value * b.value, product_error(a, b)); }
double largest(const Estimate& a) { return std::fabs(a.value) + a.error; }
double gamma(double roundings) { return roundings * unit_roundoff / (1 - roundings * unit_roundoff); }

// --- The derivatives of activations, in the order of src/cpu/activation_gradient.cpp ----------------------------------------

double exact_sigmoid(double z) { return z < 0 ? std::exp(z) / (1 + std::exp(z)) : 1 / (1 + std::exp(-z)); }

/// silu(z) / z. The bound of silu counts 6 roundings, and the quotient is one more.
Estimate sigmoid(const Estimate& z) {
  const double nearest = std::max(std::fabs(z.value) - z.error, 0.0);  // where the slope is largest
  const double change = exact_sigmoid(nearest) * exact_sigmoid(-nearest) * z.error;
  const double value = exact_sigmoid(z.value);
  return {value, change + 7 * unit_roundoff * (value + change) + underflow};
}

/// A factor of an activation: its value and its derivative.
struct Factor {
  Estimate value;
  Estimate slope;
};

Factor swish(const Estimate& g, const Estimate& z, const Estimate& slope_of_z) {
  const Estimate s = sigmoid(z);
  return {s * g, s + (s * sigmoid(-z)) * (g * slope_of_z)};
}
Factor silu(const Estimate& g) { return swish(g, g, {1, 0}); }

Factor gelu(const Estimate& g, GeluApproximation approximate) {
  if (approximate == GeluApproximation::tanh) {
    const Estimate a = rounded(std::sqrt(8 / std::numbers::pi), 0);
    const Estimate b = rounded(0.044715 * std::sqrt(8 / std::numbers::pi), 0);
    return swish(g, g * (a + b * (g * g)), a + Estimate{3, 0} * b * (g * g));
  }
  const double cdf = std::erfc(-g.value / std::numbers::sqrt2) / 2;
  const double density_scale = 1 / std::sqrt(2 * std::numbers::pi);
  const double nearest = std::max(std::fabs(g.value) - g.error, 0.0);
  const double change = density_scale * std::exp(-nearest * nearest / 2) * g.error;
  // The bound of gelu counts 14 roundings.
  const Estimate value = {g.value * cdf,
                          1.13 * g.error + 14 * unit_roundoff * largest({g.value * cdf, 1.13 * g.error}) + underflow};
  const Estimate computed_cdf = {cdf, change + 15 * unit_roundoff * (cdf + change) + underflow};
  // exp(−q) is the quotient of two sigmoids.
  const Estimate q = Estimate{0.5, 0} * (g * g);
  const double power = std::exp(-q.value);
  const double change_of_power = power * std::expm1(q.error);
  const Estimate computed_power = {power, change_of_power + 15 * unit_roundoff * (power + change_of_power) + underflow};
  return {value, computed_cdf + (rounded(density_scale, 0) * computed_power) * g};
}

/// scale · tanh(x / scale)
Factor soft_clip(const Estimate& x, double scale) {
  const Estimate z = Estimate{2, 0} * rounded(x.value / scale, x.error / scale);
  const Estimate s = sigmoid(z);
  const Estimate t = sigmoid(-z);
  return {Estimate{scale, 0} * (s + -t), Estimate{4, 0} * (s * t)};
}

/// Where a value may lie on either side of a clip, its slope may be that of either side.
Estimate slope_beside(const Estimate& x, double limit, const Estimate& slope) {
  if (std::fabs(x.value - limit) <= x.error) {
    return {slope.value, largest(slope)};
  }
  return x.value > limit ? Estimate{0, 0} : slope;
}
Factor clip(const Estimate& x, double limit) {
  const Estimate slope = slope_beside({std::fabs(x.value), x.error}, limit, {1, 0});
  return {{std::clamp(x.value, -limit, limit), x.error}, slope};
}

struct Factors {
  Factor gate;
  Factor up;
};

struct ToFactors {
  Estimate g;
  Estimate u;

  [[nodiscard]] Factor unchanged() const { return {u, {1, 0}}; }
  Factors operator()(const SwiGLU& a) const {
    const double limit = a.limit.value_or(std::numeric_limits<float>::infinity());
    const Estimate clipped = {std::min(g.value, limit), g.error};
    const Estimate alpha = {a.alpha, 0};
    Factor swished = swish(clipped, alpha * clipped, alpha);
    swished.slope = slope_beside(g, limit, swished.slope);
    Factor up = clip(u, limit);
    up.value = up.value + Estimate{a.bias, 0};
    return {swished, up};
  }
  Factors operator()(const GeGLU& a) const { return {gelu(g, a.approximate), unchanged()}; }
  Factors operator()(const SiTU& a) const {
    const Estimate s = sigmoid(g);
    const Factor of_sigmoid = {s, s * sigmoid(-g)};
    const Factor soft = soft_clip(g, a.beta);
    return {{soft.value * of_sigmoid.value, soft.slope * of_sigmoid.value + soft.value * of_sigmoid.slope},
            a.linear_beta ? soft_clip(u, *a.linear_beta) : unchanged()};
  }
  Factors operator()(const SwiGLUStep& a) const {
    Factor factor = silu(g);
    factor.slope = slope_beside(factor.value, a.limit, factor.slope);
    factor.value.value = std::min(factor.value.value, double{a.limit});
    return {factor, clip(u, a.limit)};
  }
  Factors operator()(const SiLU&) const { return {silu(g), {}}; }
  Factors operator()(const GELU& a) const { return {gelu(g, a.approximate), {}}; }
  Factors operator()(const ReLU2&) const { return {{{}, {std::max(2 * g.value, 0.0), 2 * g.error}}, {}}; }
};

// --- Products ---------------------------------------------------------------------------------------------------------------

/// A row times the weights (N, K) of an expert, in float32.
Row multiply(const WeightMatrices& weights, std::int64_t N, std::int64_t K, std::int64_t expert, const Row& x) {
  Problem problem;  // what error_bound reads
  problem.N = N;
  problem.K = K;
  problem.weights = weights;
  Row y;
  for (std::int64_t n = 0; n < N; ++n) {
    ReferenceValue value;
    double spread = 0;
    for (std::int64_t k = 0; k < K; ++k) {
      const ReferenceWeight w = reference_weight(weights, N, K, expert, n, k);
      const Estimate& element = x[to_size(k)];
      value.y += element.value * w.value;
      value.magnitude += largest(element) * w.group_magnitude;
      spread += element.error * std::fabs(w.value);
    }
    y.push_back({value.y, error_bound(problem, value) + spread});
  }
  return y;
}

Row forward(const LinearLayer& layer, std::int64_t expert, const Row& x) {
  Row y = multiply(layer.weights, layer.N, layer.K, expert, x);
  for (std::int64_t n = 0; n < layer.N && !layer.bias.empty(); ++n) {
    const float bias = load_float(layer.bias.row(0, expert) + n * layer.bias.col_stride(), layer.bias.dtype());
    y[to_size(n)] = y[to_size(n)] + Estimate{bias, 0};
  }
  return y;
}
Row backward(const LinearLayer& layer, std::int64_t expert, const Row& dy) {
  return multiply(transposed(layer.weights), layer.K, layer.N, expert, dy);
}

void add(Row& sum, const Row& values) { std::transform(sum.begin(), sum.end(), values.begin(), sum.begin(), std::plus<>()); }

GradientValues values_of(const Row& row) {
  GradientValues values;
  std::transform(row.begin(), row.end(), std::back_inserter(values),
                 [](const Estimate& e) -> GradientValue { return {e.value, e.error}; });
  return values;
}

/// The slots of a call as they are computed for the gradients.
struct Slot {
  std::int64_t expert = 0;
  Row input;  // of gate and up
  Row gate;   // or gate and up together
  Row up;
  Row h;
  Row d_gate;
  Row d_up;
  Row d_result;
};

/// G[n, k] = Σ x[k] · dy[n] over the slots of an expert: its value, what the errors of x and dy change in it, and the sum of the
/// magnitudes, in which roundings count.
struct OuterProduct {
  double value = 0;
  double spread = 0;
  double magnitude = 0;
};

/// The gradients of a layer from the slots' x and dy.
LayerGradientValues layer_gradients(const ExpertWeights& weights, const LinearLayer& layer, std::int64_t experts,
                                    const std::vector<Slot>& slots, Row Slot::* x, Row Slot::* dy) {
  LayerGradientValues gradients;
  std::optional<QuantizedWeights> quantized;
  if (const auto* packed = std::get_if<PackedWeights>(&weights)) {
    quantized = unpack(*packed);
  } else if (const auto* in_place = std::get_if<QuantizedWeights>(&weights)) {
    quantized = *in_place;
  }
  std::optional<array> codes;
  if (quantized && quantized->mode == Mode::affine) {  // weights whose scales are 1 and whose biases are 0
    QuantizedWeights plain = *quantized;
    plain.scales = array::empty(quantized->scales.shape(), Dtype::float32);
    std::fill_n(plain.scales.mutable_data<float>(), plain.scales.size(), 1.0F);
    plain.biases = array::empty(quantized->scales.shape(), Dtype::float32);
    std::fill_n(plain.biases->mutable_data<float>(), plain.biases->size(), 0.0F);
    codes = dequantize(plain);
  }
  const std::int64_t N = layer.N;
  const std::int64_t K = layer.K;
  for (std::int64_t expert = 0; expert < experts; ++expert) {
    std::vector<OuterProduct> G(to_size(N * K));
    Row bias(to_size(N));
    double rows = 0;
    for (const Slot& slot : slots) {
      if (slot.expert != expert) {
        continue;
      }
      ++rows;
      add(bias, slot.*dy);
      for (std::int64_t n = 0; n < N; ++n) {
        const Estimate& of_dy = (slot.*dy)[to_size(n)];
        for (std::int64_t k = 0; k < K; ++k) {
          const Estimate& of_x = (slot.*x)[to_size(k)];
          OuterProduct& sum = G[to_size(n * K + k)];
          sum.value += of_x.value * of_dy.value;
          sum.spread += product_error(of_x, of_dy) + 0x1p-149;
          sum.magnitude += largest(of_x) * largest(of_dy);
        }
      }
    }
    if (!layer.bias.empty()) {
      const GradientValues values = values_of(bias);
      gradients.bias.insert(gradients.bias.end(), values.begin(), values.end());
    }
    const double of_matrix = std::min(rows, 128.0) + std::ceil(rows / 128);
    if (!quantized) {
      for (const OuterProduct& sum : G) {
        gradients.weights.push_back({sum.value, sum.spread + gamma(of_matrix) * sum.magnitude});
      }
    }
    if (!codes) {
      continue;
    }
    const bool along_k = quantized->transpose;
    const std::int64_t outer = along_k ? N : K;
    const std::int64_t inner = along_k ? K : N;
    const std::int64_t group_size = quantized->resolved().group_size.value();
    const double roundings = of_matrix + 1 + static_cast<double>(group_size);
    for (std::int64_t row = 0; row < outer; ++row) {
      for (std::int64_t first = 0; first < inner; first += group_size) {
        OuterProduct scale;
        OuterProduct one;
        for (std::int64_t i = first; i < first + group_size; ++i) {
          const OuterProduct& sum = G[to_size(along_k ? row * K + i : i * K + row)];
          const double code = codes->data<float>()[(expert * outer + row) * inner + i];
          scale.value += code * sum.value;
          scale.spread += code * sum.spread + 0x1p-149;
          scale.magnitude += code * sum.magnitude;
          one.value += sum.value;
          one.spread += sum.spread;
          one.magnitude += sum.magnitude;
        }
        gradients.scales.push_back({scale.value, scale.spread + gamma(roundings) * scale.magnitude});
        gradients.biases.push_back({one.value, one.spread + gamma(roundings) * one.magnitude});
      }
    }
  }
  return gradients;
}

}  // namespace

MoeGradientValues moe_gradients(const MoeOperands& operands, const array& dy) {
  const LoweredMoe lowered =
      lower_moe_ffn(operands.x, operands.ids, operands.weights, operands.gate, operands.up, operands.down, operands.options);
  const MoeProblem& problem = lowered.problem;
  const FeedForwardLayers& layers = problem.experts;
  const std::int64_t H = problem.H;
  const std::int64_t I = layers.I();
  const auto at = [&](std::int64_t i, bool up) {  // in a layer that has both
    return layers.order == GateUpOrder::interleaved ? 2 * i + (up ? 1 : 0)
                                                    : i + (up != (layers.order == GateUpOrder::up_gate) ? I : 0);
  };
  MoeGradientValues gradients;
  std::vector<Slot> slots;
  for (std::int64_t token = 0; token < problem.tokens; ++token) {
    Row x;
    Row of_dy;
    for (std::int64_t i = 0; i < H; ++i) {
      x.push_back({load_float(operands.x.bytes() + (token * H + i) * operands.x.itemsize(), operands.x.dtype()), 0});
      of_dy.push_back({load_float(dy.bytes() + (token * H + i) * dy.itemsize(), dy.dtype()), 0});
    }
    std::optional<Row> of_gates;
    std::optional<Row> of_ups;
    for (std::int64_t j = 0; j < problem.k; ++j) {
      const array& weights = *operands.weights;
      const Estimate weight = {load_float(weights.bytes() + (token * problem.k + j) * weights.itemsize(), weights.dtype()), 0};
      Slot slot;
      slot.expert = problem.ids[to_size(token * problem.k + j)];
      slot.input = x;
      const Row both = forward(layers.gate, slot.expert, x);
      const Row separate_up = layers.up ? forward(*layers.up, slot.expert, x) : Row();
      Row g;
      Row u;
      for (std::int64_t i = 0; i < I; ++i) {
        g.push_back(both[to_size(layers.gate_has_both() ? at(i, false) : i)]);
        u.push_back(layers.up ? separate_up[to_size(i)] : layers.gate_has_both() ? both[to_size(at(i, true))] : Estimate());
        const ActivationReference exact = reference_activation(layers.activation, g.back().value, u.back().value);
        const double change =
            change_of_activation(layers.activation, {g.back().value, u.back().value}, {g.back().error, u.back().error});
        slot.h.push_back({exact.h, exact.error + (1 + 32 * unit_roundoff) * change});
      }
      Estimate of_weight;
      const Row result = forward(layers.down, slot.expert, slot.h);
      for (std::int64_t i = 0; i < H; ++i) {
        of_weight = of_weight + of_dy[to_size(i)] * result[to_size(i)];
        slot.d_result.push_back(weight * of_dy[to_size(i)]);
      }
      gradients.topk_weights.push_back({of_weight.value, of_weight.error});
      const Row dh = backward(layers.down, slot.expert, slot.d_result);
      slot.d_gate.resize(both.size());
      slot.d_up.resize(separate_up.size());
      for (std::int64_t i = 0; i < I; ++i) {
        const Factors f = std::visit(ToFactors{g[to_size(i)], u[to_size(i)]}, layers.activation);
        if (!is_gated(layers.activation)) {
          slot.d_gate[to_size(i)] = dh[to_size(i)] * f.gate.slope;
          continue;
        }
        slot.d_gate[to_size(layers.gate_has_both() ? at(i, false) : i)] = dh[to_size(i)] * (f.gate.slope * f.up.value);
        (layers.up ? slot.d_up[to_size(i)] : slot.d_gate[to_size(at(i, true))]) = dh[to_size(i)] * (f.gate.value * f.up.slope);
      }
      const auto add_pair = [](std::optional<Row>& sum, const Row& row) {
        if (sum) {
          add(*sum, row);
        } else {
          sum = row;
        }
      };
      add_pair(of_gates, backward(layers.gate, slot.expert, slot.d_gate));
      if (layers.up) {
        add_pair(of_ups, backward(*layers.up, slot.expert, slot.d_up));
      }
      slots.push_back(std::move(slot));
    }
    if (of_ups) {
      add(*of_gates, *of_ups);
    }
    const GradientValues of_token = values_of(*of_gates);
    gradients.x.insert(gradients.x.end(), of_token.begin(), of_token.end());
  }
  const std::int64_t experts = experts_of(layers.gate.weights);
  gradients.gate = layer_gradients(operands.gate, layers.gate, experts, slots, &Slot::input, &Slot::d_gate);
  if (layers.up) {
    gradients.up = layer_gradients(*operands.up, *layers.up, experts, slots, &Slot::input, &Slot::d_up);
  }
  gradients.down = layer_gradients(operands.down, layers.down, experts, slots, &Slot::h, &Slot::d_result);
  return gradients;
}

}  // namespace gqmm::conformance
