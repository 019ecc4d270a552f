#include "reference/activation.hpp"

#include "reference/elementary_functions.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <variant>

namespace gqmm::detail {
namespace {

// The largest errors of the elementary functions, in units of 2^−24 of the value. An ulp is at most two of them.
constexpr double sigmoid_error = 2 * sigmoid_ulp;
constexpr double tanh_error = 2 * tanh_ulp;
constexpr double normal_cdf_error = 2 * normal_cdf_ulp;

double sigmoid(double x) { return x < 0 ? std::exp(x) / (1 + std::exp(x)) : 1 / (1 + std::exp(-x)); }
/// x · factor, where the factor vanishes for x = −Inf.
double weigh(double x, double factor) { return x == -std::numeric_limits<double>::infinity() ? -0.0 : x * factor; }
/// |z| · sigmoid(−z): by how much a relative error of z becomes one of sigmoid(z).
double condition(double z) { return std::isinf(z) ? 0 : std::fabs(z) * sigmoid(-z); }
double clip(double x, double limit) { return x < -limit ? -limit : x > limit ? limit : x; }

/// A factor of the result: its value, its relative error in units of 2^−24, and its absolute error from underflow, in units of
/// 2^−149.
struct Factor {
  double value;
  double relative = 0;
  double underflow = 0;
};

/// The rounded product. Errors add up; the products of two errors are far below the slack of the functions' bounds.
Factor operator*(const Factor& a, const Factor& b) {
  const auto spread = [](const Factor& x, const Factor& y) { return y.underflow == 0 ? 0 : std::fabs(x.value) * y.underflow; };
  return {a.value * b.value, a.relative + b.relative + 1, spread(a, b) + spread(b, a) + 1};
}

/// sigmoid(z) for a z with the relative error `error_of_z`.
Factor sigmoid_factor(double z, double error_of_z) {
  return {sigmoid(z), sigmoid_error + error_of_z * condition(z), sigmoid_ulp};
}
/// x · factor for a factor that vanishes where x is very negative: underflow of the factor then ends the growth with |x|.
Factor weigh(double x, const Factor& factor, double vanishes_below) {
  const double underflow = std::min(std::fabs(x), vanishes_below) * factor.underflow + 1;
  return {weigh(x, factor.value), factor.relative + 1, underflow};
}
Factor silu(double x) { return weigh(x, sigmoid_factor(x, 0), 128); }
Factor gelu(double x, GeluApproximation approximate) {
  if (approximate == GeluApproximation::tanh) {
    const double z = std::sqrt(8 / std::numbers::pi) * x * (1 + 0.044715 * x * x);
    return weigh(x, sigmoid_factor(z, 4), 128);
  }
  return weigh(x, {std::erfc(-x / std::numbers::sqrt2) / 2, normal_cdf_error, normal_cdf_ulp}, 16);
}
Factor soft_clip(double x, double scale) {
  const double t = std::tanh(x / scale);
  return {scale * t, 1 + tanh_error + 1, 3 * scale + 1};
}
Factor min(const Factor& a, double limit) { return a.value > limit ? Factor{limit, a.relative, a.underflow} : a; }

struct Evaluate {
  double gate;
  double up;

  Factor operator()(const SwiGLU& a) const {
    const double limit = a.limit.value_or(std::numeric_limits<float>::infinity());
    const double g = gate > limit ? limit : gate;
    const double alpha = a.alpha;
    const Factor swish = weigh(g, sigmoid_factor(alpha * g, a.alpha == 1 ? 0 : 1), 128 / alpha);
    return Factor{clip(up, limit) + double{a.bias}, a.bias == 0 ? 0.0 : 1.0} * swish;
  }
  Factor operator()(const GeGLU& a) const { return Factor{up} * gelu(gate, a.approximate); }
  Factor operator()(const SiTU& a) const {
    const Factor u = a.linear_beta ? soft_clip(up, *a.linear_beta) : Factor{up};
    return u * (soft_clip(gate, a.beta) * sigmoid_factor(gate, 0));
  }
  Factor operator()(const SwiGLUStep& a) const { return Factor{clip(up, a.limit)} * min(silu(gate), a.limit); }
  Factor operator()(const SiLU&) const { return silu(gate); }
  Factor operator()(const GELU& a) const { return gelu(gate, a.approximate); }
  Factor operator()(const ReLU2&) const {
    const double positive = gate < 0 ? 0.0 : gate;
    return Factor{positive} * Factor{positive};
  }
};

// The largest |slope| of the factor that depends on gate. That of g · σ(alpha · g) is 1.0999 whatever alpha is, and those of both
// formulas of gelu are below 1.13. SiTU's is at most 1 + max |g · σ'(g)| = 1 + 0.224. Clips and tanh have slopes of at most 1.
constexpr double silu_slope = 1.1;
constexpr double gelu_slope = 1.13;
constexpr double situ_slope = 1.23;

struct Change {
  GateAndUp values;
  GateAndUp changes;

  double operator()(const SwiGLU& a) const {
    const double limit = a.limit.value_or(std::numeric_limits<float>::infinity());
    const double g = values.gate > limit ? limit : values.gate;
    return product(weigh(g, sigmoid(double{a.alpha} * g)), silu_slope, clip(values.up, limit) + double{a.bias});
  }
  double operator()(const GeGLU& a) const { return product(gelu(values.gate, a.approximate).value, gelu_slope, values.up); }
  double operator()(const SiTU& a) const {
    const double u = a.linear_beta ? soft_clip(values.up, *a.linear_beta).value : values.up;
    return product(soft_clip(values.gate, a.beta).value * sigmoid(values.gate), situ_slope, u);
  }
  double operator()(const SwiGLUStep& a) const {
    return product(min(silu(values.gate), a.limit).value, silu_slope, clip(values.up, a.limit));
  }
  double operator()(const SiLU&) const { return silu_slope * changes.gate; }
  double operator()(const GELU&) const { return gelu_slope * changes.gate; }
  double operator()(const ReLU2&) const { return (2 * std::max(values.gate, 0.0) + changes.gate) * changes.gate; }

 private:
  /// Of a product of a factor of gate and one of up.
  [[nodiscard]] double product(double of_gate, double slope, double of_up) const {
    return slope * changes.gate * (std::fabs(of_up) + changes.up) + std::fabs(of_gate) * changes.up;
  }
};

}  // namespace

ActivationReference reference_activation(const Activation& activation, double gate, double up) {
  const Factor h = std::visit(Evaluate{gate, up}, activation);
  return {h.value, h.relative * 0x1p-24 * std::fabs(h.value) + h.underflow * 0x1p-149};
}

double change_of_activation(const Activation& activation, const GateAndUp& values, const GateAndUp& changes) {
  return std::visit(Change{values, changes}, activation);
}

double error_bound(const ActivationReference& reference, Dtype dtype) {
  const double roundoff = dtype == Dtype::float16 ? 0x1p-11 : dtype == Dtype::bfloat16 ? 0x1p-8 : 0;
  const double smallest = dtype == Dtype::float16 ? 0x1p-24 : dtype == Dtype::bfloat16 ? 0x1p-133 : 0;
  const double largest = dtype == Dtype::float16 ? 65504.0 : dtype == Dtype::bfloat16 ? 0x1.fep127 : 0x1.fffffep127;
  if (!std::isfinite(reference.h) || std::fabs(reference.h) + reference.error > largest) {
    return std::numeric_limits<double>::infinity();
  }
  return roundoff * std::fabs(reference.h) + (1 + roundoff) * reference.error + smallest / 2;
}

}  // namespace gqmm::detail
