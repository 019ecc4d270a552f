#include "reference/attention.hpp"

#include "formats/float_types.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace gqmm::detail {
namespace {

constexpr double u = 0x1p-24;  // half an ulp of float32, relative

double element(const MatrixBatch& matrices, std::int64_t matrix, std::int64_t row, std::int64_t col) {
  const std::byte* const address = matrices.row(matrix, row) + col * matrices.col_stride();
  return matrices.dtype() == Dtype::bool_ ? static_cast<double>(*address) : load_float(address, matrices.dtype());
}

/// An element of keys or values. That of quantized ones is scale · code + bias in float32, as attention defines it.
double element(const KeyMatrices& matrices, std::int64_t matrix, std::int64_t row, std::int64_t col) {
  if (!matrices.is_quantized()) {
    return element(matrices.dense, matrix, row, col);
  }
  const QuantizedMatrices& q = matrices.quantized;
  const auto group_value = [&](const MatrixBatch& values) {
    return load_float(values.row(matrix, row) + col / q.group_size() * values.col_stride(), values.dtype());
  };
  const auto code = static_cast<float>(load_code(q.codes.row(matrix, row), col, q.format().bits));
  const float product = group_value(q.scales) * code;
  return product + group_value(q.biases);
}

/// A key that the query sees.
struct Score {
  std::int64_t key = 0;
  double value = 0;
  double magnitude = 0;  // |scale| · Σ |q| |k|, plus what the mask adds
};

/// The keys that the query sees, with their scores.
class Scores {
 public:
  Scores(const AttentionProblem& problem, std::int64_t batch, std::int64_t head, std::int64_t query)
      : p_(problem),
        q_matrix_(batch * problem.q_heads + head),
        kv_matrix_(batch * problem.kv_heads + head / problem.group()),
        query_(query) {}

  [[nodiscard]] std::vector<Score> visible() const {
    std::vector<Score> scores;
    for (std::int64_t j = 0; j < p_.keys(); ++j) {
      if (sees(j)) {
        scores.push_back(score(j));
      }
    }
    return scores;
  }
  /// All keys with the same score.
  [[nodiscard]] std::vector<Score> equal() const {
    std::vector<Score> scores;
    for (std::int64_t j = 0; j < p_.keys(); ++j) {
      scores.push_back({.key = j});
    }
    return scores;
  }

 private:
  [[nodiscard]] bool sees(std::int64_t j) const {
    switch (p_.mask_kind) {
      case MaskKind::none: return true;
      case MaskKind::causal: return j <= p_.keys() - p_.queries() + query_;
      case MaskKind::boolean: return element(p_.mask, q_matrix_, query_, j) != 0;
      default: return element(p_.mask, q_matrix_, query_, j) != -std::numeric_limits<double>::infinity();
    }
  }
  [[nodiscard]] Score score(std::int64_t j) const {
    Score result{.key = j};
    for (std::int64_t d = 0; d < p_.depth(); ++d) {
      const double product = element(p_.q, q_matrix_, query_, d) * element(p_.k, kv_matrix_, j, d);
      result.value += product;
      result.magnitude += std::fabs(product);
    }
    result.value *= p_.scale;
    result.magnitude *= std::fabs(p_.scale);
    if (p_.mask_kind == MaskKind::additive) {
      const double addend = element(p_.mask, q_matrix_, query_, j);
      result.value += addend;
      result.magnitude += std::fabs(addend);
    }
    return result;
  }

  const AttentionProblem& p_;
  std::int64_t q_matrix_;
  std::int64_t kv_matrix_;
  std::int64_t query_;
};

}  // namespace

std::vector<AttentionReference> reference_attention(const AttentionProblem& problem, std::int64_t batch, std::int64_t head,
                                                    std::int64_t query) {
  const Scores all(problem, batch, head, query);
  std::vector<Score> scores = all.visible();
  const bool boolean = problem.mask_kind == MaskKind::boolean || problem.mask_kind == MaskKind::causal;
  if (scores.empty() && boolean && problem.sinks.empty()) {
    scores = all.equal();
  }
  double top = -std::numeric_limits<double>::infinity();
  for (const Score& score : scores) {
    top = std::max(top, score.value);
  }
  double total = 0;
  if (!problem.sinks.empty()) {
    const double sink = problem.sinks[static_cast<std::size_t>(head)];
    top = std::max(top, sink);
    total = std::exp(sink - top);
  }
  for (const Score& score : scores) {
    total += std::exp(score.value - top);
  }
  const double blocks = std::ceil(static_cast<double>(problem.keys()) / 128) + 1;  // one more where an origin divides a block
  const double chunks = std::ceil(blocks / 8) + 1;
  const double eta = u * (std::sqrt(128 + 2 * blocks + 2 * chunks) + 4);
  const double rounding = problem.y_dtype == Dtype::bfloat16 ? 0x1p-8 : problem.y_dtype == Dtype::float16 ? 0x1p-11 : u;
  const double smallest = problem.y_dtype == Dtype::float16 ? 0x1p-25 : 0x1p-134;  // half a subnormal
  // Where 2^z is below the normal numbers, its error is absolute. A weight below 2^-126 may lose all of itself.
  const double underflow = 0x1p-126;
  std::vector<AttentionReference> row(static_cast<std::size_t>(problem.width()));
  const std::int64_t kv_matrix = batch * problem.kv_heads + head / problem.group();
  for (std::int64_t d = 0; d < problem.width(); ++d) {
    AttentionReference& result = row[static_cast<std::size_t>(d)];
    double spread = 0;        // Σ p (δ + η) |v|
    double spread_total = 0;  // Σ p (δ + η)
    if (total == 0) {         // −Inf hides all keys
      result.y = std::numeric_limits<double>::quiet_NaN();
    }
    for (const Score& score : scores) {
      const double p = std::exp(score.value - top) / total;
      const double v = element(problem.v, kv_matrix, score.key, d);
      const double delta =
          u * ((std::sqrt(static_cast<double>(problem.depth())) + 3) * score.magnitude + std::fabs(score.value - top));
      result.y += p * v;
      spread += p * (delta + eta) * std::fabs(v) + underflow * std::fabs(v);
      spread_total += p * (delta + eta);
    }
    result.bound = rounding * std::fabs(result.y) + smallest + spread + std::fabs(result.y) * spread_total;
    if (!std::isfinite(result.y)) {
      result.bound = std::numeric_limits<double>::infinity();
    }
  }
  return row;
}

}  // namespace gqmm::detail
