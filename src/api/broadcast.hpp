// NumPy's broadcasting of shapes, and the positions that it repeats.
#pragma once

#include <gqmm/array.hpp>

#include <cstdint>
#include <optional>
#include <vector>

namespace gqmm {

/// The common shape, or nullopt where an extent differs and neither is 1.
std::optional<Shape> broadcast_shapes(const Shape& a, const Shape& b);

/// For every position of `to`, in row-major order, the flat row-major position of `from` that it repeats. `from` must broadcast
/// to `to`, whose element count must fit 64 bits.
std::vector<std::int64_t> broadcast_positions(const Shape& from, const Shape& to);

}  // namespace gqmm
