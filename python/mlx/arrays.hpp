// These functions view arrays of MLX as gqmm::array.
#pragma once

#include <gqmm/array.hpp>

#include <mlx/array.h>
#include <mlx/stream.h>

namespace mx = ::mlx::core;

namespace gqmm::mlx {

/// Returns gqmm's name of the element type. Throws std::invalid_argument for complex numbers, which gqmm does not have.
Dtype dtype_of(const mx::array& a);
/// Whether gqmm computes in the array's type: float32, bfloat16 or float16.
bool is_compute_type(const mx::array& a);
/// Whether gqmm computes on the stream's device.
inline bool is_on_cpu(const mx::Stream& stream) { return stream.device == mx::Device::cpu; }
/// Returns MLX's name of an element type that results can have.
mx::Dtype mlx_dtype(Dtype dtype);

/// Views the memory of an array that has been evaluated, with any strides and offset.
array view_of(const mx::array& a);
/// Views an output whose memory has been allocated, to write to it.
array writable_view_of(mx::array& a);
/// Returns an array with the shape and type of `a`, which may be part of a graph and have no memory yet. It must not be read.
array outline_of(const mx::array& a);

}  // namespace gqmm::mlx
