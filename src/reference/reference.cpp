#include "reference/reference.hpp"

#include <algorithm>
#include <cmath>

namespace gqmm {
namespace {

double element(const MatrixBatch& matrices, std::int64_t index, std::int64_t row, std::int64_t col) {
  return load_float(matrices.row(index, row) + col * matrices.col_stride(), matrices.dtype());
}

struct Weight {
  double value;
  double group_magnitude;  // G_g = max(|scale| · max|value|, |bias|)
};

double max_value(const Format& format) {
  double largest = 0;
  for (unsigned code = 0; code < 1U << format.bits; ++code) {
    const double value = std::fabs(format.value(code));
    largest = std::isnan(value) ? largest : std::max(largest, value);
  }
  return largest;
}

Weight weight(const Problem& p, std::int64_t expert, std::int64_t n, std::int64_t k) {
  if (p.format == nullptr) {
    const double value = element(p.w, expert, k, n);
    return {value, std::fabs(value)};
  }
  // Packed along `along`, one row of codes per `row`.
  const std::int64_t row = p.transpose ? n : k;
  const std::int64_t along = p.transpose ? k : n;
  const std::int64_t group = along / p.group_size;
  const std::int64_t word = along * p.format->bits / 32;
  // The row's words may be strided; gather the (at most two) that hold this code.
  std::byte words[8] = {};
  const std::int64_t last_word = ((along + 1) * p.format->bits - 1) / 32;
  for (std::int64_t i = word; i <= last_word; ++i) {
    std::copy_n(p.w.row(expert, row) + i * p.w.col_stride(), 4, words + (i - word) * 4);
  }
  std::uint64_t stream = 0;
  std::copy_n(words, 8, reinterpret_cast<std::byte*>(&stream));
  const auto code = static_cast<unsigned>(stream >> (along * p.format->bits - word * 32)) & ((1U << p.format->bits) - 1U);

  double scale =
      load_scale(p.scales.row(expert, row) + group * p.scales.col_stride(), p.format->scale_encoding, p.scales.dtype());
  if (!p.global_scale.empty()) {
    scale *= nvfp4_scale_factor(load_unaligned<float>(p.global_scale.matrix(expert)));
  }
  const double bias = p.format->has_biases ? element(p.biases, expert, row, group) : 0.0;
  return {scale * static_cast<double>(p.format->value(code)) + bias,
          std::max(std::fabs(scale) * max_value(*p.format), std::fabs(bias))};
}

}  // namespace

double reference_weight(const Problem& problem, std::int64_t expert, std::int64_t n, std::int64_t k) {
  return weight(problem, expert, n, k).value;
}

ReferenceValue reference_value(const Problem& problem, std::int64_t pair, std::int64_t m, std::int64_t n) {
  const auto at = static_cast<std::size_t>(pair);
  ReferenceValue sum;
  for (std::int64_t k = 0; k < problem.K; ++k) {
    const double x = element(problem.x, problem.lhs[at], m, k);
    const Weight w = weight(problem, problem.rhs[at], n, k);
    sum.y += x * w.value;
    sum.magnitude += std::fabs(x) * w.group_magnitude;
    sum.plain += std::fabs(x * w.value);
  }
  return sum;
}

}  // namespace gqmm
