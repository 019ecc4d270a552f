// The memory that a lowered operator reads.
#pragma once

#include "arrays/contiguous.hpp"
#include "arrays/matrix_batch.hpp"

#include <gqmm/array.hpp>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace gqmm::detail {

/// Keeps the memory of arrays alive, and returns them in the form that problems have them. Borrowed memory has no owner; the
/// caller keeps it.
class KeptMemory {
 public:
  void keep_alive(const array& a) { owners_.push_back(a.owner()); }
  /// Keeps `a` alive and returns it as a batch of matrices.
  MatrixBatch keep(const array& a) {
    keep_alive(a);
    return MatrixBatch(a);
  }
  /// The same with contiguous rows. If the rows of `a` have gaps, this keeps a copy of its matrices `used`.
  MatrixBatch keep_contiguous(const array& a, std::span<const std::int64_t> used) {
    return has_contiguous_rows(a) ? keep(a) : keep(with_contiguous_rows(a, used));
  }

 private:
  std::vector<std::shared_ptr<const void>> owners_;
};

}  // namespace gqmm::detail
