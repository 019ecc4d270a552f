#include "arrays/views.hpp"

#include "assertion.hpp"

#include <utility>

namespace gqmm::detail {

array with_dimension(const array& a, int axis) {
  Shape shape = a.shape();
  Strides strides = a.strides();
  shape.insert(shape.begin() + axis, 1);
  strides.insert(strides.begin() + axis, a.itemsize());
  return array::borrow(a.bytes(), std::move(shape), a.dtype(), std::move(strides), a.owner());
}

array without_dimension(const array& a, int axis) {
  GQMM_ASSERT(a.dim(axis) == 1);
  Shape shape = a.shape();
  Strides strides = a.strides();
  shape.erase(shape.begin() + axis);
  strides.erase(strides.begin() + axis);
  return array::borrow(a.bytes(), std::move(shape), a.dtype(), std::move(strides), a.owner());
}

array as_matrices(const array& a) { return a.rank() >= 2 ? a : as_matrices(with_dimension(a, 0)); }

array transposed(const array& a) {
  Shape shape = a.shape();
  Strides strides = a.strides();
  std::swap(shape[shape.size() - 1], shape[shape.size() - 2]);
  std::swap(strides[strides.size() - 1], strides[strides.size() - 2]);
  return array::borrow(a.bytes(), std::move(shape), a.dtype(), std::move(strides), a.owner());
}

}  // namespace gqmm::detail
