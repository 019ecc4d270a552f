// From the caller's arrays and options to a Problem: all validation, promotion, broadcasting and allocation happens here, and
// nowhere below. Functions throw std::invalid_argument before anything is written.
#pragma once

#include "api/contiguous.hpp"
#include "plan/problem.hpp"

#include <gqmm/export.hpp>
#include <gqmm/ops.hpp>

#include <memory>
#include <vector>

namespace gqmm {

/// A Problem with everything that it points into, except packed weights and borrowed memory, which the caller keeps.
struct Lowered {
  Problem problem;
  array result;  // of the caller's shape; problem.y is its memory
  std::vector<std::int64_t> lhs;
  std::vector<std::int64_t> rhs;
  std::vector<std::shared_ptr<const void>> owners;  // of the memory that the problem reads

  /// `a` for the problem, kept alive.
  MatrixBatch keep(const array& a) {
    owners.push_back(a.owner());
    return MatrixBatch(a);
  }
  /// The same with contiguous rows: where those of `a` have gaps, a copy of its matrices `used`.
  MatrixBatch keep_contiguous(const array& a, std::span<const std::int64_t> used) {
    return has_contiguous_rows(a) ? keep(a) : keep(with_contiguous_rows(a, used));
  }

  Lowered() = default;
  Lowered(Lowered&&) = default;
  Lowered& operator=(Lowered&&) = default;
  Lowered(const Lowered&) = delete;
  Lowered& operator=(const Lowered&) = delete;
};

GQMM_API Lowered lower_gather_qmm(const array& x, const array& w, const GatherQmmOptions& options);
GQMM_API Lowered lower_gather_qmm(const array& x, const PackedWeights& w, const GatherQmmOptions& options);
GQMM_API Lowered lower_quantized_matmul(const array& x, const array& w, const GatherQmmOptions& options);
GQMM_API Lowered lower_quantized_matmul(const array& x, const PackedWeights& w, const GatherQmmOptions& options);
GQMM_API Lowered lower_gather_mm(const array& a, const array& b, const GatherMmOptions& options);

/// What an operator would return, judged by the types, shapes and settings of its operands. Their memory is not read, so indices
/// are not checked. Throws as the operator does. For front ends that build graphs.
struct ResultType {
  Shape shape;
  Dtype dtype;
};
GQMM_API ResultType result_of_gather_qmm(const array& x, const array& w, const GatherQmmOptions& options);
GQMM_API ResultType result_of_quantized_matmul(const array& x, const array& w, const GatherQmmOptions& options);
GQMM_API ResultType result_of_gather_mm(const array& a, const array& b, const GatherMmOptions& options);

}  // namespace gqmm
