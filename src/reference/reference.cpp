#include "reference/reference.hpp"

#include "plan/routing.hpp"

#include <algorithm>
#include <cmath>

namespace gqmm::detail {
namespace {

double element(const MatrixBatch& matrices, std::int64_t index, std::int64_t row, std::int64_t col) {
  return load_float(matrices.row(index, row) + col * matrices.col_stride(), matrices.dtype());
}

double max_value(const Format& format) {
  static thread_local const Format* known = nullptr;
  static thread_local double largest = 0;
  if (known == &format) {
    return largest;
  }
  known = &format;
  largest = 0;
  for (unsigned code = 0; code < 1U << format.bits; ++code) {
    const double value = std::fabs(format.value(code));
    largest = std::isfinite(value) ? std::max(largest, value) : largest;
  }
  return largest;
}

/// One of the arrays of quantized matrices, whatever their layout: element `col` of the row that holds it.
const std::byte* address_in(const MatrixBatch& part, bool in_strips, std::int64_t strips, std::int64_t expert, std::int64_t row,
                            std::int64_t col) {
  if (in_strips) {
    return part.row(expert * strips + row / strip_width, col) + row % strip_width * part.col_stride();
  }
  return part.row(expert, row) + col * part.col_stride();
}

ReferenceWeight quantized_weight(const QuantizedMatrices& w, std::int64_t N, std::int64_t K, std::int64_t expert, std::int64_t n,
                                 std::int64_t k) {
  const Format& format = w.format();
  // The codes of one row follow one another along the dimension of `along`.
  const std::int64_t row = w.transpose() ? n : k;
  const std::int64_t along = w.transpose() ? k : n;
  const auto address = [&](const MatrixBatch& part, std::int64_t col) {
    return address_in(part, w.in_strips(), strips_of(w.transpose() ? N : K), expert, row, col);
  };
  // A code lies in one word or in two neighbouring words.
  const std::int64_t word = along * format.bits / 32;
  const std::int64_t last_word = ((along + 1) * format.bits - 1) / 32;
  const std::uint64_t low = load_unaligned<std::uint32_t>(address(w.codes, word));
  const std::uint64_t high = load_unaligned<std::uint32_t>(address(w.codes, last_word));
  const std::uint64_t words = low | (last_word > word ? high << 32 : 0);
  const auto code = static_cast<unsigned>(words >> (along * format.bits - word * 32)) & ((1U << format.bits) - 1U);

  const std::int64_t group = along / w.group_size();
  double scale = load_scale(address(w.scales, group), format.scale_encoding, w.scales.dtype());
  if (!w.global_scale.empty()) {
    scale *= nvfp4_scale_factor(load_unaligned<float>(w.global_scale.matrix(expert)));
  }
  const double bias = format.has_biases ? load_float(address(w.biases, group), w.biases.dtype()) : 0.0;
  return {scale * static_cast<double>(format.value(code)) + bias,
          std::max(std::fabs(scale) * max_value(format), std::fabs(bias))};
}

}  // namespace

ReferenceWeight reference_weight(const WeightMatrices& weights, std::int64_t N, std::int64_t K, std::int64_t expert,
                                 std::int64_t n, std::int64_t k) {
  if (const QuantizedMatrices* matrices = quantized(weights)) {
    return quantized_weight(*matrices, N, K, expert, n, k);
  }
  const double value = element(std::get<DenseMatrices>(weights).b, expert, k, n);
  return {value, std::fabs(value)};
}

ReferenceValue reference_value(const Problem& problem, std::int64_t pair, std::int64_t m, std::int64_t n) {
  const auto at = static_cast<std::size_t>(pair);
  ReferenceValue sum;
  if (problem.rhs[at] == no_expert) {
    return sum;
  }
  for (std::int64_t k = 0; k < problem.K; ++k) {
    const double x = element(problem.x, problem.lhs[at], m, k);
    const ReferenceWeight w = reference_weight(problem.weights, problem.N, problem.K, problem.rhs[at], n, k);
    sum.y += x * w.value;
    sum.magnitude += std::fabs(x) * w.group_magnitude;
    sum.plain += std::fabs(x * w.value);
  }
  return sum;
}

}  // namespace gqmm::detail
