// Which arrays of MLX have lent their memory to other libraries: through the buffer protocol, DLPack or __array__. Whoever has
// such memory may write to it at any time, and leaves no trace.
#pragma once

#include <mlx/array.h>
#include <nanobind/nanobind.h>

namespace mx = ::mlx::core;
namespace nb = nanobind;

namespace gqmm::mlx {

/// Whether the memory of an evaluated array may have been lent, to this or to another array that shares it.
bool is_lent(const mx::array& a);
/// Marks the memory of an evaluated array as lent, until it is freed, and tells the packed copies of it.
void mark_lent(const mx::array& a);

/// Calls of the buffer protocol of `array_class`, mlx.core.array, are marked from now on. An array whose evaluation fails in one
/// raises its error again at each later use.
void watch_buffers(nb::handle array_class);

}  // namespace gqmm::mlx
