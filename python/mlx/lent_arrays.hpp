// Marks the arrays of MLX that have lent their memory to other libraries, through the buffer protocol, DLPack or __array__. A
// borrower of such memory may write to it at any time, unnoticed.
#pragma once

#include <mlx/array.h>
#include <nanobind/nanobind.h>

namespace mx = ::mlx::core;
namespace nb = nanobind;

namespace gqmm::mlx {

/// Whether the memory of an evaluated array may have been lent, by this or by another array that shares it.
bool is_lent(const mx::array& a);
/// Marks the memory of an evaluated array as lent until it is freed, and frees the packed copies of it.
void mark_lent(const mx::array& a);

/// Watches the buffer protocol of `array_class`, which is mlx.core.array, from now on. An array whose buffer is requested is
/// marked as lent. If its evaluation fails in a request, each later use of the array raises that error again.
void watch_buffers(nb::handle array_class);

}  // namespace gqmm::mlx
