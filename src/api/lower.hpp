// From the caller's arrays and options to a Problem: all validation, promotion, broadcasting and allocation happens here, and
// nowhere below. Functions throw std::invalid_argument before anything is written.
#pragma once

#include "api/contiguous.hpp"
#include "plan/problem.hpp"

#include <gqmm/ops.hpp>

#include <vector>

namespace gqmm {

/// A Problem and what it points into, except the caller's operands, which the caller keeps.
struct Lowered {
  Problem problem;
  array result;  // of the caller's shape; problem.y is its memory
  std::vector<std::int64_t> lhs;
  std::vector<std::int64_t> rhs;
  std::vector<array> copies;  // of operands that are not read where they lie

  /// `a` for the problem: a copy with contiguous rows of the matrices `used`, where its own rows have gaps.
  MatrixBatch readable(const array& a, std::span<const std::int64_t> used) {
    if (has_contiguous_rows(a)) {
      return MatrixBatch(a);
    }
    copies.push_back(with_contiguous_rows(a, used));
    return MatrixBatch(copies.back());
  }

  Lowered() = default;
  Lowered(Lowered&&) = default;
  Lowered& operator=(Lowered&&) = default;
  Lowered(const Lowered&) = delete;
  Lowered& operator=(const Lowered&) = delete;
};

Lowered lower_gather_qmm(const array& x, const array& w, const GatherQmmOptions& options);
Lowered lower_gather_qmm(const array& x, const PackedWeights& w, const GatherQmmOptions& options);
Lowered lower_quantized_matmul(const array& x, const array& w, const GatherQmmOptions& options);
Lowered lower_quantized_matmul(const array& x, const PackedWeights& w, const GatherQmmOptions& options);
Lowered lower_gather_mm(const array& a, const array& b, const GatherMmOptions& options);

}  // namespace gqmm
