#include "conformance/support/layout.hpp"

#include "conformance/support/guarded_memory.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <vector>

namespace gqmm::conformance {
namespace {

struct Arrangement {
  std::vector<std::size_t> order;   // axes, outermost in memory first
  std::vector<std::int64_t> steps;  // per axis: 1 dense, 2 every second, negative reversed, 0 broadcast
  std::int64_t padding = 0;         // bytes between the last element and the inaccessible page
  Edge edge = Edge::upper;
};

Arrangement arrange(std::size_t rank, Layout layout, Random& random) {
  Arrangement a;
  a.order.resize(rank);
  std::iota(a.order.begin(), a.order.end(), std::size_t{0});
  a.steps.assign(rank, 1);
  const std::size_t last = rank - 1;
  const std::size_t rows = rank < 2 ? 0 : rank - 2;
  switch (layout) {
    case Layout::contiguous: break;
    case Layout::odd_address: a.padding = 1; break;
    case Layout::sliced:
      a.steps.front() = 3;
      a.steps[rows] = 2;
      break;
    case Layout::reversed:
      std::fill_n(a.steps.begin(), last, -1);
      a.edge = Edge::lower;
      break;
    case Layout::permuted: random.shuffle(std::span(a.order).first(last)); break;
    case Layout::broadcast: a.steps.front() = 0; break;
    case Layout::wild:
      random.shuffle(std::span(a.order));
      for (std::int64_t& step : a.steps) {
        step = random.chance(0.1) ? 0 : random.integer(1, 3);
        step *= step != 0 && random.chance(0.5) ? 1 : -1;
      }
      a.padding = random.integer(0, 3);
      a.edge = random.chance(0.5) ? Edge::upper : Edge::lower;
      break;
  }
  return a;
}

}  // namespace

std::string_view name_of(Layout layout) {
  switch (layout) {
    case Layout::contiguous: return "contiguous";
    case Layout::odd_address: return "odd addresses";
    case Layout::sliced: return "sliced";
    case Layout::reversed: return "reversed";
    case Layout::permuted: return "permuted";
    case Layout::broadcast: return "broadcast";
    case Layout::wild: break;
  }
  return "wild strides";
}

array lay_out(std::span<const std::byte> contents, const Shape& shape, Dtype dtype, Layout layout, Random& random) {
  const std::size_t rank = shape.size();
  const Arrangement arrangement = arrange(rank, layout, random);
  const auto itemsize = static_cast<std::int64_t>(size_of(dtype));

  Strides strides(rank, 0);
  std::int64_t extent = itemsize;  // bytes from the lowest address to the end of the highest element
  std::int64_t pitch = itemsize;
  std::int64_t first = 0;  // element (0, 0, …) from the lowest address
  for (std::size_t i = rank; i-- > 0;) {
    const std::size_t axis = arrangement.order[i];
    const std::int64_t step = arrangement.steps[axis];
    strides[axis] = step * pitch;
    const std::int64_t reach = (shape[axis] - 1) * std::abs(strides[axis]);
    extent += reach;
    first += step < 0 ? reach : 0;
    if (step != 0) {
      pitch *= shape[axis] * std::abs(step);
    }
  }

  const auto bytes = static_cast<std::size_t>(extent + arrangement.padding);
  const std::shared_ptr<std::byte> memory = guarded_memory(bytes, arrangement.edge);
  // The padding stands on the side of the inaccessible page of Edge::lower too, so that the address becomes odd there.
  std::byte* const origin = memory.get() + (arrangement.edge == Edge::lower ? arrangement.padding : 0) + first;
  std::vector<std::int64_t> index(rank, 0);
  for (std::size_t at = 0; at < contents.size(); at += static_cast<std::size_t>(itemsize)) {
    std::int64_t offset = 0;
    for (std::size_t axis = 0; axis < rank; ++axis) {
      offset += index[axis] * strides[axis];
    }
    std::memcpy(origin + offset, contents.data() + at, static_cast<std::size_t>(itemsize));
    for (std::size_t axis = rank; axis-- > 0 && ++index[axis] == shape[axis];) {
      index[axis] = 0;
    }
  }
  make_read_only(memory, bytes);
  return array::borrow(origin, shape, dtype, strides, memory);
}

}  // namespace gqmm::conformance
