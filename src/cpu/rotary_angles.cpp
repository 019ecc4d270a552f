#include "cpu/rotary_angles.hpp"

#include <array>
#include <cmath>
#include <cstddef>
#include <numbers>

namespace gqmm::cpu {
namespace {

/// coefficients[0] + x · (coefficients[1] + x · …)
template <std::size_t count>
double polynomial(double x, const std::array<double, count>& coefficients) {
  double sum = coefficients[count - 1];
  for (std::size_t i = count - 1; i-- > 0;) {
    sum = sum * x + coefficients[i];
  }
  return sum;
}

/// log2(x) = e + log2(m) for x = m · 2^e with m near 1, and ln(m) = 2 · (s + s³/3 + s⁵/5 + …) with s = (m − 1) / (m + 1).
double log2_of(double x) {
  int exponent = 0;
  double m = std::frexp(x, &exponent);
  if (m < std::numbers::sqrt2 / 2) {
    m *= 2;
    --exponent;
  }
  const double s = (m - 1) / (m + 1);
  std::array<double, 15> odd = {};
  for (std::size_t i = 0; i < odd.size(); ++i) {
    odd[i] = 1.0 / static_cast<double>(2 * i + 1);
  }
  return exponent + 2 * s * polynomial(s * s, odd) / std::numbers::ln2;
}

/// 2^x = 2^n · e^(f · ln 2) for x = n + f with a whole n.
double exp2_of(double x) {
  const double n = std::floor(x + 0.5);
  std::array<double, 16> factorials = {1};
  for (std::size_t i = 1; i < factorials.size(); ++i) {
    factorials[i] = factorials[i - 1] / static_cast<double>(i);
  }
  return std::ldexp(polynomial((x - n) * std::numbers::ln2, factorials), static_cast<int>(n));
}

/// 1, −1/2!, 1/4!, … from `first` = 0, or 1, −1/3!, 1/5!, … from `first` = 1.
constexpr std::array<double, 10> alternating(int first) {
  std::array<double, 10> coefficients = {1};
  for (std::size_t i = 1; i < coefficients.size(); ++i) {
    const double k = 2 * static_cast<double>(i) + first;
    coefficients[i] = -coefficients[i - 1] / (k * (k - 1));
  }
  return coefficients;
}

}  // namespace

std::vector<double> frequencies_of_base(double base, std::int64_t pairs) {
  std::vector<double> frequencies;
  const double log_of_base = log2_of(base);
  for (std::int64_t i = 0; i < pairs; ++i) {
    frequencies.push_back(exp2_of(-static_cast<double>(i) / static_cast<double>(pairs) * log_of_base));
  }
  return frequencies;
}

CosineAndSine cosine_and_sine(double angle) {
  constexpr auto cosine = alternating(0);
  constexpr auto sine = alternating(1);
  // π/2 as the sum of two doubles. Each fma rounds once, so little is lost where the multiple of π/2 cancels.
  constexpr double half_pi = 0x1.921fb54442d18p+0;
  constexpr double rest_of_half_pi = 0x1.1a62633145c07p-54;
  const double n = std::floor(angle * (2 / std::numbers::pi) + 0.5);
  double r = std::fma(-n, half_pi, angle);
  r = std::fma(-n, rest_of_half_pi, r);
  const double cos = polynomial(r * r, cosine);
  const double sin = r * polynomial(r * r, sine);
  switch (static_cast<std::int64_t>(n) & 3) {
    case 0: return {cos, sin};
    case 1: return {-sin, cos};
    case 2: return {-cos, -sin};
    default: return {sin, -cos};
  }
}

}  // namespace gqmm::cpu
