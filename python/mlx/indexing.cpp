#include "indexing.hpp"

#include <mlx/ops.h>

#include <functional>
#include <numeric>
#include <utility>
#include <vector>

namespace gqmm::mlx {
namespace {

/// Sums over the dimensions along which `shape` was broadcast.
mx::array sum_over_broadcast(const mx::array& a, const mx::Shape& shape, mx::Stream s) {
  const auto extra = static_cast<int>(a.ndim() - shape.size());
  std::vector<int> axes(static_cast<std::size_t>(extra));
  std::iota(axes.begin(), axes.end(), 0);
  for (int axis = extra; axis < static_cast<int>(a.ndim()); ++axis) {
    if (shape[static_cast<std::size_t>(axis - extra)] != a.shape(axis)) {
      axes.push_back(axis);
    }
  }
  return axes.empty() ? a : mx::reshape(mx::sum(a, axes, true, s), shape, s);
}

}  // namespace

mx::Shape leading_shape(const mx::array& a) { return {a.shape().begin(), a.shape().end() - 2}; }

int count_of(const mx::Shape& shape) { return std::accumulate(shape.begin(), shape.end(), 1, std::multiplies<>()); }

mx::Shape operator+(mx::Shape a, const mx::Shape& b) {
  for (const auto extent : b) {
    a.push_back(extent);
  }
  return a;
}

mx::array explicit_indices(const std::optional<mx::array>& indices, const mx::Shape& leading, mx::Stream s) {
  return indices ? *indices : mx::reshape(mx::arange(0.0, count_of(leading), mx::uint32, s), leading, s);
}

mx::array sum_by_index(const mx::array& pairs, const mx::Shape& shape, const std::optional<mx::array>& indices, mx::Stream s) {
  if (!indices) {
    return sum_over_broadcast(pairs, shape, s);
  }
  const mx::Shape matrix = {shape.end() - 2, shape.end()};
  const mx::Shape pair_shape = leading_shape(pairs);
  const int count = count_of({shape.begin(), shape.end() - 2});
  const mx::array positions = mx::flatten(mx::broadcast_to(*indices, pair_shape, s), s);
  const mx::array updates = mx::reshape(pairs, mx::Shape{count_of(pair_shape), 1} + matrix, s);
  return mx::reshape(mx::scatter_add(mx::zeros(mx::Shape{count} + matrix, pairs.dtype(), s), positions, updates, 0, s), shape, s);
}

mx::array sum_of_products_by_index(const mx::array& a, const mx::array& b, const mx::array& indices, int count, mx::Stream s) {
  // Sorted by index, the rows of each sum lie side by side, and a product over segments gives them all.
  const mx::array order = mx::argsort(indices, s);
  const auto sorted_rows = [&](const mx::array& pairs) {
    return mx::astype(mx::flatten(mx::take(pairs, order, 0, s), 0, 1, s), mx::float32, s);
  };
  const int M = a.shape(1);
  const mx::array counts =
      mx::scatter_add(mx::zeros({count}, mx::uint32, s), indices, mx::full({indices.shape(0), 1}, M, mx::uint32, s), 0, s);
  const mx::array ends = mx::cumsum(counts, 0, false, true, s);
  const mx::array segments = mx::stack({mx::subtract(ends, counts, s), ends}, 1, s);
  return mx::segmented_mm(mx::swapaxes(sorted_rows(a), 0, 1, s), sorted_rows(b), segments, s);
}

mx::array batch_first(const mx::array& a, int axis, int rank, mx::Stream s) {
  const mx::array moved = mx::moveaxis(a, axis, 0, s);
  mx::Shape shape = {moved.shape(0)};
  shape.insert(shape.end(), static_cast<std::size_t>(rank) + 1 - moved.ndim(), 1);
  shape.insert(shape.end(), moved.shape().begin() + 1, moved.shape().end());
  return mx::reshape(moved, shape, s);
}

}  // namespace gqmm::mlx
