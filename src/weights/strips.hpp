// Copies weights to and from the order of packed weights, in which the 16 rows of a strip lie interleaved (plan/packed.hpp draws
// it).
#pragma once

#include "namespaces.hpp"

#include <gqmm/array.hpp>

namespace gqmm::detail {

/// Copies (…, rows, cols) to (matrices, strips, cols, 16): element [row, col] becomes [row / 16, col, row % 16]. Rows past the
/// last one are zero. Each of up to `threads` threads writes one contiguous share, so the system places that memory near the
/// thread. A product over all experts has about the same shares.
[[nodiscard]] array pack_strips(const array& a, int threads);

/// The inverse of pack_strips. The result has the shape `shape`, which ends with (rows, cols).
[[nodiscard]] array unpack_strips(const array& packed, const Shape& shape);

}  // namespace gqmm::detail
