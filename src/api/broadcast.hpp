// NumPy's broadcasting of shapes, and the positions that it repeats.
#pragma once

#include "namespaces.hpp"

#include <gqmm/array.hpp>

#include <cstdint>
#include <optional>
#include <vector>

namespace gqmm::detail {

/// The shape to which both shapes broadcast. It is nullopt if an extent differs and neither is 1.
std::optional<Shape> broadcast_shapes(const Shape& a, const Shape& b);

/// For every position of `to`, in row-major order, returns the flat row-major position of `from` that it repeats. `from` must
/// broadcast to `to`, and the element count of `to` must fit 64 bits.
std::vector<std::int64_t> broadcast_positions(const Shape& from, const Shape& to);

}  // namespace gqmm::detail
