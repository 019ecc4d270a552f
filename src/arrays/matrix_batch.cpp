#include "arrays/matrix_batch.hpp"

namespace gqmm::detail {

MatrixBatch::MatrixBatch(const array& a)
    : base_(a.bytes()),
      count_(1),
      rows_(a.dim(-2)),
      cols_(a.dim(-1)),
      row_stride_(a.stride(-2)),
      col_stride_(a.stride(-1)),
      dtype_(a.dtype()) {
  std::vector<Dim> dims;  // outermost first; neighbours are merged if one stride walks through both
  for (int axis = 0; axis < a.rank() - 2; ++axis) {
    const Dim dim = {a.dim(axis), a.stride(axis)};
    count_ *= dim.extent;
    if (dim.extent == 1) {
      continue;
    }
    if (!dims.empty() && dims.back().stride == dim.stride * dim.extent) {
      dims.back() = {dims.back().extent * dim.extent, dim.stride};
    } else {
      dims.push_back(dim);
    }
  }
  if (!dims.empty()) {
    outer_stride_ = dims.front().stride;
    leading_.assign(dims.begin() + 1, dims.end());
  }
}

}  // namespace gqmm::detail
