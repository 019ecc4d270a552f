#include "cpu/activation_gradient.hpp"

#include "cpu/activate.hpp"
#include "cpu/call_context.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <numbers>
#include <utility>
#include <variant>

namespace gqmm::cpu {
namespace {

using Values = std::vector<float>;

/// Elements that are computed together. The dozen of arrays of a block stay in L2.
constexpr std::int64_t block = 1024;
/// An element takes about as long as this number of multiply-adds.
constexpr double multiply_adds_of_an_element = 256;

template <class Function>
Values mapped(const Values& a, Function function) {
  Values result(a.size());
  std::transform(a.begin(), a.end(), result.begin(), function);
  return result;
}

template <class Function>
Values mapped(const Values& a, const Values& b, Function function) {
  Values result(a.size());
  std::transform(a.begin(), a.end(), b.begin(), result.begin(), function);
  return result;
}

Values activated(const Values& z, const Activation& activation, const KernelTable& kernels) {
  Values h(z.size());
  ActivationOfRows(kernels, activation)(z.data(), nullptr, h.data(), static_cast<std::int64_t>(z.size()));
  return h;
}

/// f for the values z of z · f(z), where f(0) = 1/2 and f(∞) = 1.
Values quotient(const Values& product, const Values& z) {
  return mapped(product, z, [](float p, float x) {
    return x == 0 ? 0.5F : x == std::numeric_limits<float>::infinity() ? 1.0F : p / x;
  });
}

Values sigmoid(const Values& z, const KernelTable& kernels) { return quotient(activated(z, SiLU(), kernels), z); }

/// sigmoid(z), and sigmoid(−z) = 1 − sigmoid(z) without cancellation.
struct Sigmoids {
  Values of_z;
  Values of_minus_z;

  Sigmoids(const Values& z, const KernelTable& kernels)
      : of_z(sigmoid(z, kernels)), of_minus_z(sigmoid(mapped(z, std::negate<>()), kernels)) {}
};

/// The product where one factor may be infinite while the other has vanished: it is 0 then.
float vanishing(float vanishes, float grows) { return vanishes == 0 ? 0.0F : vanishes * grows; }

/// A factor of an activation: its values and its derivatives.
struct Factor {
  Values value;
  Values slope;
};

/// g · sigmoid(z(g)) for z and its derivative.
Factor swish(const Values& g, const Values& z, const Values& slope_of_z, const KernelTable& kernels) {
  const Sigmoids s(z, kernels);
  Factor factor = {.value = Values(g.size()), .slope = Values(g.size())};
  for (std::size_t i = 0; i < g.size(); ++i) {
    factor.value[i] = vanishing(s.of_z[i], g[i]);
    factor.slope[i] = s.of_z[i] + vanishing(s.of_z[i] * s.of_minus_z[i], g[i] * slope_of_z[i]);
  }
  return factor;
}

Factor silu(const Values& g, const KernelTable& kernels) { return swish(g, g, Values(g.size(), 1.0F), kernels); }

Factor gelu(const Values& g, GeluApproximation approximate, const KernelTable& kernels) {
  if (approximate == GeluApproximation::tanh) {
    const auto a = static_cast<float>(std::sqrt(8 / std::numbers::pi));
    const auto b = static_cast<float>(0.044715 * std::sqrt(8 / std::numbers::pi));
    const Values z = mapped(g, [=](float x) { return x * (a + b * (x * x)); });
    return swish(g, z, mapped(g, [=](float x) { return a + 3.0F * b * (x * x); }), kernels);
  }
  Factor factor = {.value = activated(g, GELU(), kernels), .slope = {}};
  const Values cdf = quotient(factor.value, g);
  // exp(−q) = sigmoid(−q) / sigmoid(q)
  const Sigmoids s(mapped(g, [](float x) { return 0.5F * (x * x); }), kernels);
  const auto scale = static_cast<float>(1 / std::sqrt(2 * std::numbers::pi));
  factor.slope = Values(g.size());
  for (std::size_t i = 0; i < g.size(); ++i) {
    factor.slope[i] = cdf[i] + vanishing(scale * (s.of_minus_z[i] / s.of_z[i]), g[i]);
  }
  return factor;
}

/// beta · tanh(x / beta)
Factor soft_clip(const Values& x, float beta, const KernelTable& kernels) {
  const Sigmoids s(mapped(x, [=](float v) { return 2.0F * (v / beta); }), kernels);
  Factor factor = {.value = Values(x.size()), .slope = Values(x.size())};
  for (std::size_t i = 0; i < x.size(); ++i) {
    factor.value[i] = beta * (s.of_z[i] - s.of_minus_z[i]);
    factor.slope[i] = 4.0F * (s.of_z[i] * s.of_minus_z[i]);  // 1 − tanh²
  }
  return factor;
}

Factor clip(const Values& x, float limit) {
  return {mapped(x, [=](float v) { return v < -limit  ? -limit
                                          : v > limit ? limit
                                                      : v; }),
          mapped(x, [=](float v) { return v < -limit || v > limit ? 0.0F : 1.0F; })};
}

Factor times(const Factor& a, const Factor& b) {
  Factor product = {.value = Values(a.value.size()), .slope = Values(a.value.size())};
  for (std::size_t i = 0; i < a.value.size(); ++i) {
    product.value[i] = a.value[i] * b.value[i];
    product.slope[i] = a.slope[i] * b.value[i] + a.value[i] * b.slope[i];
  }
  return product;
}

/// The two factors of an activation: that of gate, and that of up.
struct Factors {
  const Values& gate;
  const Values& up;
  const KernelTable& kernels;

  struct Both {
    Factor of_gate;
    Factor of_up;
  };

  Both operator()(const SwiGLU& a) const {
    const float limit = a.limit.value_or(std::numeric_limits<float>::infinity());
    const Values g = mapped(gate, [=](float v) { return v > limit ? limit : v; });
    Both both = {swish(g, mapped(g, [&](float v) { return a.alpha * v; }), Values(g.size(), a.alpha), kernels), clip(up, limit)};
    std::transform(gate.begin(), gate.end(), both.of_gate.slope.begin(), both.of_gate.slope.begin(),
                   [=](float v, float slope) { return v > limit ? 0.0F : slope; });
    std::transform(both.of_up.value.begin(), both.of_up.value.end(), both.of_up.value.begin(),
                   [&](float v) { return v + a.bias; });
    return both;
  }
  Both operator()(const GeGLU& a) const { return {gelu(gate, a.approximate, kernels), unchanged()}; }
  Both operator()(const SiTU& a) const {
    const Sigmoids s(gate, kernels);
    const Factor sigmoid_of_gate = {s.of_z, mapped(s.of_z, s.of_minus_z, std::multiplies<>())};
    return {times(soft_clip(gate, a.beta, kernels), sigmoid_of_gate),
            a.linear_beta ? soft_clip(up, *a.linear_beta, kernels) : unchanged()};
  }
  Both operator()(const SwiGLUStep& a) const {
    Factor factor = silu(gate, kernels);
    for (std::size_t i = 0; i < gate.size(); ++i) {
      factor.slope[i] = factor.value[i] > a.limit ? 0.0F : factor.slope[i];
      factor.value[i] = factor.value[i] > a.limit ? a.limit : factor.value[i];
    }
    return {std::move(factor), clip(up, a.limit)};
  }
  Both operator()(const SiLU&) const { return {silu(gate, kernels), {}}; }
  Both operator()(const GELU& a) const { return {gelu(gate, a.approximate, kernels), {}}; }
  Both operator()(const ReLU2&) const {
    return {{{}, mapped(gate, [](float v) { return v < 0 ? 0.0F : 2.0F * v; })}, {}};
  }

 private:
  [[nodiscard]] Factor unchanged() const { return {up, Values(up.size(), 1.0F)}; }
};

}  // namespace

ActivationGradients activation_gradients(const Activation& activation, const std::vector<float>& gate,
                                         const std::vector<float>& up, const std::vector<float>& dh, int threads) {
  const auto count = static_cast<std::int64_t>(gate.size());
  ActivationGradients gradients = {Values(gate.size()), Values(up.size())};
  CallContext call(static_cast<double>(count) * multiply_adds_of_an_element, threads);
  const std::int64_t blocks = (count + block - 1) / block;
  call.use_at_most(blocks);
  call.add_phase(
      blocks, [](std::int64_t) { return 1; },
      [&](std::int64_t item, std::int64_t) {
        const std::int64_t first = item * block;
        const std::int64_t last = std::min(count, first + block);
        const auto part = [&](const Values& all) {
          return all.empty() ? Values() : Values(all.begin() + first, all.begin() + last);
        };
        const Values gates = part(gate);
        const Values ups = part(up);
        const Factors::Both both = std::visit(Factors{gates, ups, call.kernels()}, activation);
        for (std::int64_t i = first; i < last; ++i) {
          const auto at = static_cast<std::size_t>(i);
          const auto in_block = static_cast<std::size_t>(i - first);
          if (up.empty()) {
            gradients.gate[at] = dh[at] * both.of_gate.slope[in_block];
          } else {
            gradients.gate[at] = dh[at] * (both.of_gate.slope[in_block] * both.of_up.value[in_block]);
            gradients.up[at] = dh[at] * (both.of_gate.value[in_block] * both.of_up.slope[in_block]);
          }
        }
      });
  call.run();
  return gradients;
}

}  // namespace gqmm::cpu
