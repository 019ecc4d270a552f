// The memory that a lowered operator reads.
#pragma once

#include "arrays/contiguous.hpp"
#include "arrays/matrix_batch.hpp"
#include "arrays/views.hpp"

#include <gqmm/array.hpp>

#include <cstdint>
#include <span>
#include <vector>

namespace gqmm::detail {

/// Keeps the copies that lowering makes of operands. The operands themselves are the caller's, who keeps them until the call
/// ends.
class KeptMemory {
 public:
  /// Returns `a` as a batch of matrices with contiguous rows. If the rows of `a` have gaps, this is a copy of its matrices
  /// `used`.
  MatrixBatch contiguous(const array& a, std::span<const std::int64_t> used) {
    return has_contiguous_rows(a) ? MatrixBatch(a) : MatrixBatch(copies_.emplace_back(with_contiguous_rows(a, used)));
  }
  /// The same where all matrices are used.
  MatrixBatch contiguous(const array& a) {
    return has_contiguous_rows(a) ? MatrixBatch(a) : MatrixBatch(copies_.emplace_back(to_contiguous_rows(a)));
  }
  /// The same for each row of `a` as a matrix of one row. All of them are used.
  MatrixBatch contiguous_rows(const array& a) {
    return MatrixBatch::of_rows(has_contiguous_rows(a) ? a : copies_.emplace_back(to_contiguous_rows(as_matrices(a))));
  }

 private:
  std::vector<array> copies_;
};

}  // namespace gqmm::detail
