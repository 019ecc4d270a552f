// Arrays of MLX as gqmm::array.
#pragma once

#include <gqmm/array.hpp>

#include <mlx/array.h>

namespace mx = ::mlx::core;

namespace gqmm::mlx {

/// The same element type. Throws std::invalid_argument for complex numbers, which gqmm has none of.
Dtype dtype_of(const mx::array& a);
/// The inverse, for the types that results have.
mx::Dtype mlx_dtype(Dtype dtype);

/// The memory of an array that has been evaluated, in place: any strides and offset.
array view_of(const mx::array& a);
/// The same, writable, of an output that has its memory.
array writable_view_of(mx::array& a);
/// Shape and type of an array of a graph, which has no memory yet. It must not be read.
array outline_of(const mx::array& a);

}  // namespace gqmm::mlx
