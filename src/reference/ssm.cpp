#include "reference/ssm.hpp"

#include "reference/elementary_functions.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

namespace gqmm::detail {
namespace {

constexpr double u = half_ulp;

/// A value, and how far a result in float32 may be from it.
using Value = RecurrenceElement;

/// The same after an operation that rounds to float32.
Value after_rounding(Value exact) { return {exact.value, exact.bound + u * (std::fabs(exact.value) + exact.bound) + underflow}; }
/// The product of two values, rounded.
Value product(Value a, Value b) {
  return after_rounding({a.value * b.value, std::fabs(a.value) * b.bound + a.bound * (std::fabs(b.value) + b.bound)});
}
/// A rising convex function, with an error in ulp.
template <class Function>
Value rising(const Function& function, double ulp, Value x) {
  const double value = function(x.value);
  const double highest = function(x.value + x.bound);
  return {value, highest - value + 2 * ulp * u * highest + underflow};
}

double exact_softplus(double x) { return std::max(x, 0.0) + std::log1p(std::exp(-std::fabs(x))); }
double exact_exp(double x) { return std::exp(x); }

/// What a token does to the states of its head.
struct Gates {
  Value step;   // Δ
  Value decay;  // g
};

Gates load_gates(const SsmProblem& p, std::int64_t token, std::int64_t head) {
  const double dt = element(p.dt, token, head, 0) + element(p.dt_bias, 0, 0, head);
  const Value wide = rising(exact_softplus, softplus_ulp, after_rounding({dt, 0}));
  const auto clip = [&](double step) {
    return std::min(std::max(step, static_cast<double>(p.smallest_step)), static_cast<double>(p.largest_step));
  };
  const double step = clip(wide.value);
  const Value clipped = {step, std::max(clip(wide.value + wide.bound) - step, step - clip(wide.value - wide.bound))};
  const Value rate = product(rising(exact_exp, exp_ulp, {element(p.A_log, 0, 0, head), 0}), clipped);
  return {.step = clipped, .decay = rising(exact_exp, exp_ulp, {-rate.value, rate.bound})};
}

/// A row of the state, and the error of each of its elements.
class Row {
 public:
  Row(const SsmProblem& problem, const ColumnOfHead& column)
      : p_(problem),
        column_(column),
        s_(first_row(problem, column)),
        errors_(s_.size(), 0.0),
        gamma_(gamma_of_sum(s_.size())),
        skip_(element(problem.D, 0, 0, column.head)) {}

  /// Walks over a token. Returns y in float32, with its bound.
  Value step(std::int64_t token) {
    const Gates gates = load_gates(p_, token, column_.head);
    const double x = element(p_.v, token, column_.head, column_.column);
    const Value delta = product(gates.step, {x, 0});
    Value y = {skip_ * x, underflow * static_cast<double>(s_.size())};
    for (std::size_t i = 0; i < s_.size(); ++i) {
      const auto col = static_cast<std::int64_t>(i);
      const Value added = product({element(p_.k, token, p_.k_head(column_.head), col), 0}, delta);
      const auto [g, of_g] = gates.decay;
      const double carried = g * errors_[i] + of_g * (std::fabs(s_[i]) + errors_[i]);
      const Value s = after_rounding({g * s_[i] + added.value, carried + added.bound});
      s_[i] = s.value;
      errors_[i] = s.bound;
      const double q = element(p_.q, token, p_.k_head(column_.head), col);
      y.value += s.value * q;
      y.bound += std::fabs(q) * (s.bound + gamma_ * (std::fabs(s.value) + s.bound));
    }
    return after_rounding(y);
  }

  [[nodiscard]] std::vector<Value> elements() const {
    std::vector<Value> all;
    for (std::size_t i = 0; i < s_.size(); ++i) {
      all.push_back(without_bound_if_not_finite({.value = s_[i], .bound = errors_[i]}));
    }
    return all;
  }

 private:
  const SsmProblem& p_;
  ColumnOfHead column_;
  std::vector<double> s_;
  std::vector<double> errors_;
  double gamma_;
  double skip_;
};

}  // namespace

RecurrenceColumn reference_of(const SsmProblem& problem, const ColumnOfHead& column) {
  Row row(problem, column);
  RecurrenceColumn result;
  result.y = walk(problem, column, [&](std::int64_t token) { return row.step(token); });
  result.state = row.elements();
  return result;
}

}  // namespace gqmm::detail
