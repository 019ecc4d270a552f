#include "arrays/matrix_batch.hpp"

namespace gqmm::detail {

MatrixBatch::MatrixBatch(const array& a)
    : base_(a.bytes()),
      rows_(a.dim(-2)),
      cols_(a.dim(-1)),
      row_stride_(a.stride(-2)),
      col_stride_(a.stride(-1)),
      dtype_(a.dtype()) {
  count_along(a, a.rank() - 2);
}

MatrixBatch::MatrixBatch(const void* data, std::int64_t count, std::int64_t rows, std::int64_t cols, Dtype dtype)
    : base_(static_cast<const std::byte*>(data)),
      count_(count),
      rows_(rows),
      cols_(cols),
      row_stride_(cols * static_cast<std::int64_t>(size_of(dtype))),
      col_stride_(static_cast<std::int64_t>(size_of(dtype))),
      outer_stride_(rows * row_stride_),
      dtype_(dtype) {}

MatrixBatch MatrixBatch::of_rows(const array& a) {
  MatrixBatch batch(a.bytes(), 1, 1, a.dim(-1), a.dtype());
  batch.col_stride_ = a.stride(-1);
  batch.count_along(a, a.rank() - 1);
  return batch;
}

void MatrixBatch::count_along(const array& a, int axes) {
  count_ = 1;
  Dim outer = {1, 0};
  for (int axis = 0; axis < axes; ++axis) {  // neighbours are merged if one stride walks through both
    const Dim dim = {a.dim(axis), a.stride(axis)};
    count_ *= dim.extent;
    Dim& last = leading_.empty() ? outer : leading_.back();
    if (dim.extent == 1) {
      continue;
    }
    if (outer.extent == 1) {
      outer = dim;
    } else if (last.stride == dim.stride * dim.extent) {
      last = {last.extent * dim.extent, dim.stride};
    } else {
      leading_.push_back(dim);
    }
  }
  outer_stride_ = outer.stride;
}

}  // namespace gqmm::detail
