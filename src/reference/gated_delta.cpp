#include "reference/gated_delta.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

namespace gqmm::detail {
namespace {

constexpr double u = half_ulp;

double norm(const std::vector<double>& a) {
  double squares = 0;
  for (const double value : a) {
    squares += value * value;
  }
  return std::sqrt(squares);
}

/// Σ a · b, and Σ |a| · |b|.
struct Sum {
  double value = 0;
  double magnitude = 0;
};
Sum sum_of_products(const std::vector<double>& a, const std::vector<double>& b) {
  Sum sum;
  for (std::size_t i = 0; i < a.size(); ++i) {
    sum.value += a[i] * b[i];
    sum.magnitude += std::fabs(a[i] * b[i]);
  }
  return sum;
}

/// The operands of a token for one column.
struct Token {
  std::vector<double> q;
  std::vector<double> k;
  std::vector<double> g;
  double v = 0;
  double beta = 0;
};

Token load_token(const GatedDeltaProblem& p, std::int64_t token, const ColumnOfHead& column) {
  const std::int64_t head = column.head;
  Token result;
  for (std::int64_t i = 0; i < p.Dk; ++i) {
    result.q.push_back(element(p.q, token, p.k_head(head), i));
    result.k.push_back(element(p.k, token, p.k_head(head), i));
    result.g.push_back(element(p.g, token, head, p.g.cols() == 1 ? 0 : i));
  }
  result.v = element(p.v, token, head, column.column);
  result.beta = element(p.beta, token, head, 0);
  return result;
}

/// A row of the state, and the norm of its error.
class Row {
 public:
  explicit Row(std::vector<double> start) : s_(std::move(start)), gamma_(gamma_of_sum(s_.size())) {}

  /// Walks over a token. Returns y in float32, with its bound.
  RecurrenceElement step(const Token& t) {
    const double floor = underflow * std::sqrt(static_cast<double>(s_.size()));
    double largest_decay = 0;
    for (std::size_t i = 0; i < s_.size(); ++i) {
      s_[i] *= t.g[i];
      largest_decay = std::max(largest_decay, std::fabs(t.g[i]));
    }
    const double of_decay = largest_decay * error_ + u * (norm(s_) + largest_decay * error_) + floor;
    const double length_of_k = norm(t.k);
    const Sum memory = sum_of_products(s_, t.k);
    const double of_sum = error_of_sum(memory, of_decay, length_of_k);
    const double difference = t.v - memory.value;
    const double of_delta =
        std::fabs(t.beta) * (of_sum + 2.001 * u * (std::fabs(difference) + length_of_k * of_decay + of_sum) + underflow) +
        underflow;
    const double transition = std::max(1.0, std::fabs(1 - t.beta * length_of_k * length_of_k));
    for (std::size_t i = 0; i < s_.size(); ++i) {
      s_[i] += t.k[i] * t.beta * difference;
    }
    const double carried = transition * of_decay + length_of_k * of_delta;
    error_ = carried + u * (norm(s_) + carried) + floor;
    const Sum y = sum_of_products(s_, t.q);
    return {.value = y.value, .bound = norm(t.q) * error_ + error_of_sum(y, error_, norm(t.q))};
  }

  [[nodiscard]] std::vector<RecurrenceElement> elements() const {
    std::vector<RecurrenceElement> all;
    for (const double value : s_) {
      all.push_back(without_bound_if_not_finite({.value = value, .bound = error_}));
    }
    return all;
  }

 private:
  /// What the roundings of a sum over the row add, if the row has an error of this norm already.
  [[nodiscard]] double error_of_sum(const Sum& sum, double error_of_row, double length_of_factor) const {
    return gamma_ * (sum.magnitude + error_of_row * length_of_factor) + underflow * static_cast<double>(s_.size());
  }

  std::vector<double> s_;
  double gamma_;
  double error_ = 0;
};

}  // namespace

RecurrenceColumn reference_of(const GatedDeltaProblem& problem, const ColumnOfHead& column) {
  Row row(first_row(problem, column));
  RecurrenceColumn result;
  result.y = walk(problem, column, [&](std::int64_t token) { return row.step(load_token(problem, token, column)); });
  result.state = row.elements();
  return result;
}

}  // namespace gqmm::detail
