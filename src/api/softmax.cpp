// softmax: the checks of its arguments, and the order of its axes.
#include "cpu/softmax.hpp"

#include "api/check.hpp"
#include "api/output.hpp"
#include "arrays/contiguous.hpp"
#include "arrays/views.hpp"
#include "threads/node_binding.hpp"

#include <gqmm/infer.hpp>
#include <gqmm/softmax.hpp>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstddef>
#include <cstring>

namespace gqmm {

using namespace detail;

namespace {

constexpr std::string_view softmax_op = "softmax";

/// The axes as they count from the first dimension, ascending.
std::vector<int> checked_axes(const array& x, const std::vector<int>& axes) {
  if (axes.empty()) {
    fail(softmax_op, "axes is empty; pass at least one dimension of x");
  }
  std::vector<int> positions;
  for (const int axis : axes) {
    if (axis < -x.rank() || axis >= x.rank()) {
      fail(softmax_op, "axis {} is no dimension of x, which has shape {}; pass one of {} … {}", axis, to_string(x.shape()),
           -x.rank(), x.rank() - 1);
    }
    positions.push_back(axis < 0 ? axis + x.rank() : axis);
  }
  std::ranges::sort(positions);
  if (std::ranges::adjacent_find(positions) != positions.end()) {
    fail(softmax_op, "axes = ({}) name a dimension of x, which has shape {}, twice; leave one out", fmt::join(axes, ", "),
         to_string(x.shape()));
  }
  return positions;
}

/// The dimensions of x that are kept, and then the axes.
std::vector<int> with_axes_last(int rank, const std::vector<int>& axes) {
  std::vector<int> order;
  for (int dim = 0; dim < rank; ++dim) {
    if (!std::ranges::binary_search(axes, dim)) {
      order.push_back(dim);
    }
  }
  order.insert(order.end(), axes.begin(), axes.end());
  return order;
}

/// The array with its dimensions in another order.
array permuted(const array& a, const std::vector<int>& order) {
  Shape shape;
  Strides strides;
  for (const int dim : order) {
    shape.push_back(a.dim(dim));
    strides.push_back(a.stride(dim));
  }
  return array::borrow(a.bytes(), std::move(shape), a.dtype(), std::move(strides), a.owner());
}

/// The array with its last `count` dimensions as one. It is a copy where these dimensions have gaps between them.
array with_last_as_one(const array& a, std::size_t count) {
  if (count == 1) {
    return as_matrices(a);
  }
  const int first = a.rank() - static_cast<int>(count);
  bool collapse = true;
  for (int dim = first; dim + 1 < a.rank(); ++dim) {
    collapse = collapse && a.stride(dim) == a.stride(dim + 1) * a.dim(dim + 1);
  }
  const array whole = collapse ? a : copy_row_major(a);
  Shape shape(whole.shape().begin(), whole.shape().begin() + first);
  Strides strides(whole.strides().begin(), whole.strides().begin() + first);
  shape.push_back(element_count(Shape(whole.shape().begin() + first, whole.shape().end())));
  strides.push_back(whole.stride(-1));
  return as_matrices(array::borrow(whole.bytes(), std::move(shape), whole.dtype(), std::move(strides), whole.owner()));
}

}  // namespace

ResultType infer_softmax(const array& x, const std::vector<int>& axes, const SoftmaxOptions& options) {
  check_compute_float(softmax_op, "x", x);
  if (x.rank() == 0) {
    fail(softmax_op, "x is a scalar; pass at least one dimension");
  }
  checked_axes(x, axes);
  check_stream(softmax_op, options.stream);
  return {x.shape(), x.dtype()};
}

array softmax(const array& x, const std::vector<int>& axes, const SoftmaxOptions& options) {
  const threads::NodeBinding binding(options.stream);
  const ResultType type = infer_softmax(x, axes, options);
  const NamedOperand operands[] = {{"x", &x}};
  array result = make_result(softmax_op, type.shape, type.dtype, options.out, operands);
  if (result.size() == 0) {
    return result;
  }
  const std::vector<int> order = with_axes_last(x.rank(), checked_axes(x, axes));
  const array rows = with_last_as_one(permuted(x, order), axes.size());
  const auto run = [&](std::byte* y) { cpu::softmax({.x = MatrixBatch(rows), .y = y, .threads = options.stream.threads}); };
  if (std::ranges::is_sorted(order)) {
    run(result.mutable_bytes());
    return result;
  }
  // The rows of the result have gaps in x's order of dimensions.
  std::vector<int> back(order.size());
  Shape shape;
  for (std::size_t i = 0; i < order.size(); ++i) {
    back[static_cast<std::size_t>(order[i])] = static_cast<int>(i);
    shape.push_back(x.dim(order[i]));
  }
  array y = array::empty(std::move(shape), x.dtype());
  run(y.mutable_bytes());
  const array ordered = copy_row_major(permuted(y, back));
  std::memcpy(result.mutable_bytes(), ordered.bytes(), result.nbytes());
  return result;
}

}  // namespace gqmm
