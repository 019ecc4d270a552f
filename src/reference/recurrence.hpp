// What the specifications of recurrences over tokens share (docs/reference/numerics.md).
#pragma once

#include "plan/recurrence_problem.hpp"

#include <cstdint>
#include <vector>

namespace gqmm::detail {

/// An element of a result in double precision, and how far a result may be from it.
struct RecurrenceElement {
  double value = 0;
  double bound = 0;  ///< infinite if the reference is not finite
};

/// The results of one column of v: an element of y for each token, and the row of the state.
struct RecurrenceColumn {
  std::vector<RecurrenceElement> y;
  std::vector<RecurrenceElement> state;
};

/// A column of v.
struct ColumnOfHead {
  std::int64_t batch;
  std::int64_t head;
  std::int64_t column;
};

/// Half an ulp of float32, relative.
inline constexpr double half_ulp = 0x1p-24;
/// What an operation below the normal range may lose.
inline constexpr double underflow = 0x1p-149;

double element(const MatrixBatch& matrices, std::int64_t matrix, std::int64_t row, std::int64_t col);
/// The row of the state before the first token.
std::vector<double> first_row(const RecurrenceProblem& problem, const ColumnOfHead& column);

/// What the roundings of a sum of n products may add, relative to the sum of their magnitudes: 16 chains of fma, and four
/// additions.
double gamma_of_sum(std::size_t n);

/// A value of float32 with its bound, rounded to a type.
RecurrenceElement rounded(RecurrenceElement y, Dtype dtype);
RecurrenceElement without_bound_if_not_finite(RecurrenceElement element);

/// Walks over the tokens of a column that count. step(token) is y in float32, with its bound; `token` is a number among those of
/// all sequences.
template <class Step>
std::vector<RecurrenceElement> walk(const RecurrenceProblem& problem, const ColumnOfHead& column, const Step& step) {
  std::vector<RecurrenceElement> y;
  for (std::int64_t t = 0; t < problem.tokens; ++t) {
    const bool counts = problem.counts(column.batch, t);
    y.push_back(counts ? rounded(step(column.batch * problem.tokens + t), problem.y_dtype) : RecurrenceElement{});
  }
  return y;
}

}  // namespace gqmm::detail
