#include "arrays.hpp"

#include <cstddef>
#include <stdexcept>

namespace gqmm::mlx {
namespace {

Shape shape_of(const mx::array& a) { return {a.shape().begin(), a.shape().end()}; }

Strides byte_strides_of(const mx::array& a) {
  Strides strides(a.strides().begin(), a.strides().end());
  for (std::int64_t& stride : strides) {
    stride *= static_cast<std::int64_t>(a.itemsize());
  }
  return strides;
}

/// The memory that a view of an empty array, or an outline, points to.
alignas(std::max_align_t) std::byte nothing[1];

}  // namespace

Dtype dtype_of(const mx::array& a) {
  switch (a.dtype().val()) {
    case mx::Dtype::Val::bool_: return Dtype::bool_;
    case mx::Dtype::Val::uint8: return Dtype::uint8;
    case mx::Dtype::Val::uint16: return Dtype::uint16;
    case mx::Dtype::Val::uint32: return Dtype::uint32;
    case mx::Dtype::Val::uint64: return Dtype::uint64;
    case mx::Dtype::Val::int8: return Dtype::int8;
    case mx::Dtype::Val::int16: return Dtype::int16;
    case mx::Dtype::Val::int32: return Dtype::int32;
    case mx::Dtype::Val::int64: return Dtype::int64;
    case mx::Dtype::Val::float16: return Dtype::float16;
    case mx::Dtype::Val::bfloat16: return Dtype::bfloat16;
    case mx::Dtype::Val::float32: return Dtype::float32;
    case mx::Dtype::Val::float64: return Dtype::float64;
    case mx::Dtype::Val::complex64: break;
  }
  throw std::invalid_argument("[gqmm.mlx] an operand has type complex64; the products take real numbers only");
}

bool is_compute_type(const mx::array& a) {
  return a.dtype() == mx::float32 || a.dtype() == mx::bfloat16 || a.dtype() == mx::float16;
}

mx::Dtype mlx_dtype(Dtype dtype) {
  switch (dtype) {
    case Dtype::float16: return mx::float16;
    case Dtype::bfloat16: return mx::bfloat16;
    default: return mx::float32;
  }
}

array view_of(const mx::array& a) {
  if (a.size() == 0) {
    return outline_of(a);
  }
  return array::borrow(a.data<std::byte>(), shape_of(a), dtype_of(a), byte_strides_of(a));
}

array writable_view_of(mx::array& a) { return array::borrow_mut(a.data<std::byte>(), shape_of(a), dtype_of(a)); }

array outline_of(const mx::array& a) { return array::borrow(nothing, shape_of(a), dtype_of(a)); }

}  // namespace gqmm::mlx
