#include "api/broadcast.hpp"

#include <algorithm>
#include <numeric>

namespace gqmm::detail {

std::optional<Shape> broadcast_shapes(const Shape& a, const Shape& b) {
  const Shape& longer = a.size() >= b.size() ? a : b;
  const Shape& shorter = a.size() >= b.size() ? b : a;
  Shape shape = longer;
  const std::size_t offset = longer.size() - shorter.size();
  for (std::size_t axis = 0; axis < shorter.size(); ++axis) {
    std::int64_t& extent = shape[offset + axis];
    if (extent == 1) {
      extent = shorter[axis];
    } else if (shorter[axis] != 1 && shorter[axis] != extent) {
      return std::nullopt;
    }
  }
  return shape;
}

std::vector<std::int64_t> broadcast_positions(const Shape& from, const Shape& to) {
  std::vector<std::int64_t> positions(static_cast<std::size_t>(element_count(to)));
  if (from == to) {
    std::iota(positions.begin(), positions.end(), std::int64_t{0});
    return positions;
  }
  if (positions.empty()) {
    return positions;
  }
  // Distances in flat positions of `from`. They are 0 along the dimensions that repeat.
  Strides steps(to.size(), 0);
  const std::size_t offset = to.size() - from.size();
  std::int64_t step = 1;
  for (std::size_t axis = from.size(); axis-- > 0;) {
    steps[offset + axis] = from[axis] == 1 ? 0 : step;
    step *= from[axis];
  }
  // Handles one dimension at a time, innermost first. The block that is done is repeated, each time shifted by the step of the
  // dimension.
  std::size_t done = 1;
  for (std::size_t axis = to.size(); axis-- > 0;) {
    const auto extent = static_cast<std::size_t>(to[axis]);
    for (std::size_t repeat = 1; repeat < extent; ++repeat) {
      const std::int64_t shift = static_cast<std::int64_t>(repeat) * steps[axis];
      std::transform(positions.begin(), positions.begin() + static_cast<std::ptrdiff_t>(done),
                     positions.begin() + static_cast<std::ptrdiff_t>(repeat * done),
                     [shift](std::int64_t position) { return position + shift; });
    }
    done *= extent;
  }
  return positions;
}

}  // namespace gqmm::detail
