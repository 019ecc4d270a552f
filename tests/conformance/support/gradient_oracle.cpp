#include "conformance/support/gradient_oracle.hpp"

#include "formats/float_types.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace gqmm::conformance {

using namespace detail;

namespace {

constexpr double unit_roundoff = 0x1p-24;  // of float32

std::size_t to_size(std::int64_t count) { return static_cast<std::size_t>(count); }

double element(const MatrixBatch& matrices, std::int64_t index, std::int64_t row, std::int64_t col) {
  return load_float(matrices.row(index, row) + col * matrices.col_stride(), matrices.dtype());
}

/// γ_n of n roundings on the way of each term into a sum.
double gamma(double roundings) { return roundings * unit_roundoff / (1 - roundings * unit_roundoff); }

/// Value of the code of [expert, row, index], in the order of w.
double code_of(const QuantizedMatrices& w, std::int64_t expert, std::int64_t row, std::int64_t index) {
  const int bits = w.format().bits;
  const std::byte* const words = w.codes.row(expert, row);
  const auto word = [&](std::int64_t i) -> std::uint64_t {
    return load_unaligned<std::uint32_t>(words + i * w.codes.col_stride());
  };
  const std::int64_t first = index * bits / 32;
  const std::int64_t last = ((index + 1) * bits - 1) / 32;
  const std::uint64_t both = word(first) | (last > first ? word(last) << 32 : 0);
  return w.format().value(static_cast<unsigned>(both >> (index * bits - first * 32)) & ((1U << bits) - 1U));
}

/// G[k, n] of one expert, and Σ|x||dy| beside it.
struct Matrix {
  std::vector<double> sums;
  std::vector<double> magnitudes;
  std::int64_t rows = 0;
};

Matrix outer_products(const GradientProblem& gradient, std::int64_t expert) {
  const Problem& problem = gradient.product;
  Matrix matrix = {std::vector<double>(to_size(problem.K * problem.N)), std::vector<double>(to_size(problem.K * problem.N)), 0};
  std::vector<double> dy(to_size(problem.N));
  for (std::size_t pair = 0; pair < problem.rhs.size(); ++pair) {
    for (std::int64_t m = 0; m < problem.M && problem.rhs[pair] == expert; ++m, ++matrix.rows) {
      for (std::int64_t n = 0; n < problem.N; ++n) {
        dy[to_size(n)] = element(gradient.dy, static_cast<std::int64_t>(pair), m, n);
      }
      for (std::int64_t k = 0; k < problem.K; ++k) {
        const double x = element(problem.x, problem.lhs[pair], m, k);
        for (std::int64_t n = 0; n < problem.N; ++n) {
          matrix.sums[to_size(k * problem.N + n)] += x * dy[to_size(n)];
          matrix.magnitudes[to_size(k * problem.N + n)] += std::fabs(x * dy[to_size(n)]);
        }
      }
    }
  }
  return matrix;
}

struct TypeRange {
  double unit_roundoff;
  double smallest_subnormal;
  double largest;
};

TypeRange range_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::float16: return {0x1p-11, 0x1p-24, 65504.0};
    case Dtype::bfloat16: return {0x1p-8, 0x1p-133, 0x1.fep127};
    default: return {0x1p-24, 0x1p-149, 0x1.fffffep127};
  }
}

/// The element with the largest error, as a fraction of its bound.
struct WorstElement {
  double fraction = -1;
  std::size_t at = 0;
  double actual = 0;
  double bound = 0;
};

WorstElement worst_element(const GradientValues& expected, const array& actual) {
  const TypeRange range = range_of(actual.dtype());
  WorstElement worst;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double value = load_float(actual.bytes() + i * size_of(actual.dtype()), actual.dtype());
    const double bound = range.unit_roundoff * (std::fabs(expected[i].value) + expected[i].bound) + expected[i].bound +
                         range.smallest_subnormal / 2;
    if (!(std::fabs(expected[i].value) + bound <= range.largest)) {
      continue;  // may overflow
    }
    double fraction = std::fabs(value - expected[i].value) / bound;
    fraction = std::isnan(fraction) ? std::numeric_limits<double>::infinity() : fraction;
    if (fraction > worst.fraction) {
      worst = {.fraction = fraction, .at = i, .actual = value, .bound = bound};
    }
  }
  return worst;
}

}  // namespace

GradientValues input_gradient(const GradientProblem& gradient) {
  Problem product = gradient.product;
  std::vector<std::int64_t> pairs(product.rhs.size());
  std::iota(pairs.begin(), pairs.end(), std::int64_t{0});
  std::swap(product.N, product.K);
  product.x = gradient.dy;
  product.weights = transposed(gradient.product.weights);
  product.lhs = pairs;
  const Oracle oracle(product);
  const std::int64_t elements = product.M * product.N;
  GradientValues values(to_size(gradient.x_matrices * elements));
  std::vector<double> magnitudes(values.size());
  std::vector<double> pairs_of(values.size());
  for (std::size_t pair = 0; pair < pairs.size(); ++pair) {
    for (std::int64_t i = 0; i < elements; ++i) {
      const ReferenceValue& one = oracle.at(static_cast<std::int64_t>(pair), i / product.N, i % product.N);
      const std::size_t at = to_size(gradient.product.lhs[pair] * elements + i);
      values[at].value += one.y;
      magnitudes[at] += one.magnitude;
      pairs_of[at] += 1;
    }
  }
  const QuantizedMatrices* matrices = quantized(product.weights);
  const double additions =
      static_cast<double>(multiplies_integers(product.weights) ? 2 * product.K / matrices->group_size() : product.K);
  for (std::size_t at = 0; at < values.size(); ++at) {
    const double c = 6.0 + std::sqrt(additions + pairs_of[at]);
    values[at].bound = c * 0x1p-22 * magnitudes[at] + pairs_of[at] * (additions + static_cast<double>(product.K)) * 0x1p-149;
  }
  return values;
}

GradientValues weight_gradient(const GradientProblem& gradient, WeightPart part) {
  const Problem& problem = gradient.product;
  const QuantizedMatrices* w = quantized(problem.weights);
  const bool along_k = w != nullptr && w->transpose();
  const std::int64_t rows = along_k ? problem.N : problem.K;
  const std::int64_t along = along_k ? problem.K : problem.N;
  const std::int64_t group_size = part == WeightPart::dense ? 1 : w->group_size();
  GradientValues values;
  for (std::int64_t expert = 0; expert < experts_of(problem.weights); ++expert) {
    const Matrix matrix = outer_products(gradient, expert);
    const double blocks = std::ceil(static_cast<double>(matrix.rows) / 128);
    const double of_matrix = std::min(static_cast<double>(matrix.rows), 128.0) + blocks;
    const double roundings = part == WeightPart::dense ? of_matrix : of_matrix + 1 + static_cast<double>(group_size);
    for (std::int64_t row = 0; row < rows; ++row) {
      for (std::int64_t group = 0; group < along / group_size; ++group) {
        double sum = 0;
        double magnitude = 0;
        double codes = 0;
        for (std::int64_t i = group * group_size; i < (group + 1) * group_size; ++i) {
          const double code = part == WeightPart::scales ? code_of(*w, expert, row, i) : 1.0;
          const std::size_t at = to_size(along_k ? i * problem.N + row : row * problem.N + i);
          sum += code * matrix.sums[at];
          magnitude += code * matrix.magnitudes[at];
          codes += code;
        }
        // Below the normal range each operation is off by at most half the smallest subnormal.
        const double operations = (static_cast<double>(matrix.rows) + blocks) * codes + 2 * static_cast<double>(group_size);
        values.push_back({sum, gamma(roundings) * magnitude + operations * 0x1p-150});
      }
    }
  }
  return values;
}

double worst_fraction(const GradientValues& expected, const array& actual) { return worst_element(expected, actual).fraction; }

::testing::AssertionResult keeps(const GradientValues& expected, const array& actual) {
  if (static_cast<std::int64_t>(expected.size()) != actual.size()) {
    return ::testing::AssertionFailure() << actual.size() << " elements, expected " << expected.size();
  }
  const WorstElement worst = worst_element(expected, actual);
  if (worst.fraction <= 1) {
    return ::testing::AssertionSuccess();
  }
  return ::testing::AssertionFailure() << fmt::format(
             "worst element {} of {}: expected {:.9g}, actual {:.9g}, {:.3g} times the bound {:.3g}", worst.at,
             to_string(actual.shape()), expected[worst.at].value, worst.actual, worst.fraction, worst.bound);
}

}  // namespace gqmm::conformance
