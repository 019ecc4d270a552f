#include "indexing.hpp"

#include "arrays.hpp"
#include "evaluation_errors.hpp"

#include <gqmm/infer.hpp>

#include <mlx/allocator.h>
#include <mlx/backend/cpu/encoder.h>
#include <mlx/ops.h>
#include <mlx/primitives.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace gqmm::mlx {
namespace {

/// A primitive that copies positions as int64. Its evaluation fails if one of them is out of range.
class CheckedIndices final : public mx::UnaryPrimitive {
 public:
  CheckedIndices(mx::Stream stream, const char* op, const char* name, int count)
      : UnaryPrimitive(stream), op_(op), name_(name), count_(count) {}

  [[nodiscard]] const char* name() const override { return "GqmmCheckedIndices"; }
  [[nodiscard]] bool is_equivalent(const Primitive& other) const override {
    return count_ == static_cast<const CheckedIndices&>(other).count_;
  }
  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override { return {inputs.front().shape()}; }
  std::pair<std::vector<mx::array>, std::vector<int>> vmap(const std::vector<mx::array>& inputs,
                                                           const std::vector<int>& axes) override {
    return {{checked_indices(op_, name_, inputs.front(), count_, stream())}, axes};
  }

  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    out.set_data(mx::allocator::malloc(out.nbytes()));
    mx::cpu::get_command_encoder(stream()).dispatch(
        remembering_errors([op = op_, name = name_, count = count_, in = mx::array::unsafe_weak_copy(inputs.front()),
                            out = mx::array::unsafe_weak_copy(out)]() mutable {
          // Tasks that read this output run even if this one throws, so the output must have valid positions.
          std::fill_n(out.data<std::int64_t>(), out.size(), 0);
          const std::vector<std::int64_t> positions =
              gqmm::checked_indices(view_of(in), {.op = op, .operand = "the operand", .indices_name = name, .count = count});
          std::copy(positions.begin(), positions.end(), out.data<std::int64_t>());
        }));
  }
  void eval_gpu(const std::vector<mx::array>&, mx::array&) override {
    throw std::runtime_error("GqmmCheckedIndices runs on the CPU only.");
  }

 private:
  const char* op_;  // a literal, and so is name_
  const char* name_;
  int count_;
};

}  // namespace

mx::array checked_indices(const char* op, const char* name, const mx::array& positions, int count, mx::Stream s) {
  if (count == 0 && positions.size() != 0) {
    throw std::invalid_argument(std::string("[") + op + "] " + name + " selects from an operand that has no matrices");
  }
  return mx::array(positions.shape(), mx::int64, std::make_shared<CheckedIndices>(s, op, name, count), {positions});
}

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

mx::Shape leading_shape(const mx::array& a) { return {a.shape().begin(), a.shape().end() - 2}; }

int count_of(const mx::Shape& shape) { return std::accumulate(shape.begin(), shape.end(), 1, std::multiplies<>()); }

mx::Shape concatenate(mx::Shape a, const mx::Shape& b) {
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
  const int count = count_of({shape.begin(), shape.end() - 2});
  const mx::array positions = mx::flatten(*indices, s);
  const mx::array updates = mx::reshape(pairs, concatenate({positions.shape(0), 1}, matrix), s);
  const mx::array zeros = mx::zeros(concatenate({count}, matrix), pairs.dtype(), s);
  return mx::reshape(mx::scatter_add(zeros, positions, updates, 0, s), shape, s);
}

mx::array batch_offsets(int batch, int count, mx::Stream s) {
  return mx::multiply(mx::arange(0, batch, s), mx::array(std::int64_t{count}), s);
}

mx::array batch_first(const mx::array& a, int axis, int rank, mx::Stream s) {
  const mx::array moved = mx::moveaxis(a, axis, 0, s);
  mx::Shape shape = {moved.shape(0)};
  shape.insert(shape.end(), static_cast<std::size_t>(rank) + 1 - moved.ndim(), 1);
  shape.insert(shape.end(), moved.shape().begin() + 1, moved.shape().end());
  return mx::reshape(moved, shape, s);
}

}  // namespace gqmm::mlx
