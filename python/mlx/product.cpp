#include "product.hpp"

#include "arrays.hpp"
#include "evaluation_errors.hpp"
#include "indexing.hpp"
#include "sum_of_products.hpp"
#include "task_time.hpp"

#include <mlx/allocator.h>
#include <mlx/backend/cpu/encoder.h>
#include <mlx/ops.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <tuple>

namespace gqmm::mlx {
namespace {

std::optional<mx::array> sum_of(const std::optional<mx::array>& a, mx::array b, mx::Stream s) {
  return a ? mx::add(*a, b, s) : std::move(b);
}

std::atomic<std::int64_t> nanoseconds_of_tasks = 0;

/// Adds the time from its construction to its end to the time of all tasks.
class TaskTime {
 public:
  TaskTime() = default;
  ~TaskTime() { nanoseconds_of_tasks += std::chrono::nanoseconds(std::chrono::steady_clock::now() - start_).count(); }
  TaskTime(const TaskTime&) = delete;
  TaskTime& operator=(const TaskTime&) = delete;

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace

std::vector<mx::array> ProductArrays::flatten() const {
  std::vector<mx::array> flat = {x};
  flat.insert(flat.end(), weights.begin(), weights.end());
  for (const std::optional<mx::array>* indices : {&lhs_indices, &rhs_indices}) {
    if (*indices) {
      flat.push_back(**indices);
    }
  }
  return flat;
}

std::vector<mx::array> weak_copies(const std::vector<mx::array>& arrays) {
  std::vector<mx::array> copies;
  copies.reserve(arrays.size());
  for (const mx::array& a : arrays) {
    copies.push_back(mx::array::unsafe_weak_copy(a));
  }
  return copies;
}

void evaluate_on_stream(mx::Stream stream, const std::vector<mx::array>& inputs, std::vector<mx::array>& outs,
                        std::function<void(std::vector<mx::array>& outs)> compute) {
  mx::cpu::CommandEncoder& encoder = mx::cpu::get_command_encoder(stream);
  for (const mx::array& input : inputs) {
    encoder.set_input_array(input);
  }
  for (mx::array& out : outs) {
    if (out.data_shared_ptr() == nullptr) {
      out.set_data(mx::allocator::malloc(out.nbytes()));
    }
    encoder.set_output_array(out);
  }
  encoder.dispatch(remembering_errors([compute = std::move(compute), results = weak_copies(outs)]() mutable {
    if (std::all_of(results.begin(), results.end(), [](const mx::array& y) { return y.size() == 0; })) {
      return;
    }
    const TaskTime time;
    try {
      compute(results);
    } catch (...) {
      for (mx::array& y : results) {  // NaN in every type, because MLX now takes y for evaluated
        if (y.size() != 0) {
          std::memset(y.data<std::byte>(), 0xFF, y.nbytes());
        }
      }
      throw;
    }
  }));
}

double seconds_of_tasks() { return 1e-9 * static_cast<double>(nanoseconds_of_tasks.load()); }

void evaluate_on_stream(mx::Stream stream, const std::vector<mx::array>& inputs, mx::array& out,
                        std::function<void(mx::array& out)> compute) {
  std::vector<mx::array> outs = {out};  // shares what is known of the memory
  evaluate_on_stream(stream, inputs, outs, [compute = std::move(compute)](std::vector<mx::array>& ys) { compute(ys.front()); });
}

Product::Product(mx::Stream stream, const ProductArrays& operands)
    : UnaryPrimitive(stream),
      weights_(operands.weights.size()),
      has_lhs_(operands.lhs_indices.has_value()),
      has_rhs_(operands.rhs_indices.has_value()),
      knows_lhs_(operands.lhs_indices && is_known(*operands.lhs_indices)),
      knows_rhs_(operands.rhs_indices && is_known(*operands.rhs_indices)) {
  settle_after_errors(stream);
}

ProductArrays Product::operands_of(const std::vector<mx::array>& inputs) const {
  const auto first_index = inputs.begin() + 1 + static_cast<std::ptrdiff_t>(weights_);
  ProductArrays operands = {.x = inputs.front(), .weights = {inputs.begin() + 1, first_index}};
  if (has_lhs_) {
    operands.lhs_indices = *first_index;
  }
  if (has_rhs_) {
    operands.rhs_indices = inputs.back();
  }
  return operands;
}

bool Product::has_roles_of(const Product& other) const {
  return weights_ == other.weights_ && has_lhs_ == other.has_lhs_ && has_rhs_ == other.has_rhs_;
}

int Product::matrix_rank(std::size_t) const { return 2; }

void Product::check_known_indices(const ProductArrays& operands) const {
  const auto check = [&](const char* operand, const char* name, const mx::array& stack, const mx::array& indices) {
    check_known([&] {
      std::ignore = gqmm::checked_indices(
          view_of(indices), {.op = op(), .operand = operand, .indices_name = name, .count = count_of(leading_shape(stack))});
    });
  };
  const auto [x_name, w_name] = operand_names();
  if (knows_lhs_) {
    check(x_name, "lhs_indices", operands.x, *operands.lhs_indices);
  }
  if (knows_rhs_) {
    check(w_name, "rhs_indices", operands.weights.front(), *operands.rhs_indices);
  }
}

void Product::eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) {
  if (out.size() != 0) {
    check_known_indices(operands_of(inputs));
  }
  evaluate_on_stream(
      stream(), inputs, out,
      [run = kernel(operands_of(inputs)), operands = operands_of(weak_copies(inputs))](mx::array& y) { run(operands, y); });
}

std::vector<mx::Shape> Product::output_shapes(const std::vector<mx::array>& inputs) {
  const Shape shape = result_of(operands_of(inputs)).shape;
  return {mx::Shape(shape.begin(), shape.end())};
}

void Product::eval_gpu(const std::vector<mx::array>&, mx::array&) {
  throw std::runtime_error(std::string(name()) + " runs on the CPU only; products on a GPU are MLX's own.");
}

std::vector<mx::array> Product::jvp(const std::vector<mx::array>& primals, const std::vector<mx::array>& tangents,
                                    const std::vector<int>& argnums) {
  const ProductArrays operands = operands_of(primals);
  std::optional<mx::array> x_tangent;
  std::vector<std::optional<mx::array>> weight_tangents(weights_);
  bool weights_change = false;
  for (std::size_t i = 0; i < argnums.size(); ++i) {
    const auto input = static_cast<std::size_t>(argnums[i]);
    if (input == 0) {
      x_tangent = tangents[i];
    } else if (input <= weights_) {
      check_differentiable(input - 1);
      weight_tangents[input - 1] = tangents[i];
      weights_change = true;
    }  // indices have no tangent, because they are integers
  }
  std::optional<mx::array> dy;
  if (x_tangent) {
    ProductArrays moved = operands;
    moved.x = *x_tangent;
    dy = apply(moved);
  }
  if (weights_change) {
    dy = sum_of(dy, weights_jvp(operands, weight_tangents), stream());
  }
  if (!dy) {
    const mx::array y = apply(operands);
    return {mx::zeros_like(y, stream())};
  }
  return {*dy};
}

std::vector<mx::array> Product::vjp(const std::vector<mx::array>& primals, const std::vector<mx::array>& cotangents,
                                    const std::vector<int>& argnums, const std::vector<mx::array>&) {
  const mx::Stream s = stream();
  const ProductArrays operands = operands_of(primals);
  const mx::array& x = operands.x;
  const mx::array& dy = cotangents.front();
  const mx::Shape pairs = leading_shape(dy);
  const mx::Shape w_leading = leading_shape(operands.weights.front());

  // The positions in x, in the shape of the pairs. They are checked, because scatter and take do not check them.
  const auto lhs_positions = [&] {
    const mx::Shape x_leading = leading_shape(x);
    const std::optional<mx::array>& given = operands.lhs_indices;
    const mx::array all =
        given ? checked_indices(op(), "lhs_indices", *given, count_of(x_leading), s) : explicit_indices({}, x_leading, s);
    return mx::broadcast_to(all, pairs, s);
  };
  const auto rhs_positions = [&] { return mx::broadcast_to(explicit_indices(operands.rhs_indices, w_leading, s), pairs, s); };
  const auto d_x = [&] {
    ProductArrays transposed = {.x = dy, .weights = operands.weights};
    if (operands.has_indices()) {
      transposed.rhs_indices = rhs_positions();
    }
    const std::optional<mx::array> lhs = operands.lhs_indices ? std::optional(lhs_positions()) : std::nullopt;
    return mx::astype(sum_by_index(apply_transposed(transposed), x.shape(), lhs, s), x.dtype(), s);
  };
  // dW[e] = Σ dy[p].T @ x[lhs[p]] over the pairs p that use matrix e.
  const auto d_matrices = [&] {
    const mx::Shape shape = concatenate(w_leading, {dy.shape(-1), x.shape(-1)});
    if (operands.has_indices()) {
      const auto stacked = [&](const mx::array& a) {
        return mx::reshape(a, {count_of(leading_shape(a)), a.shape(-2), a.shape(-1)}, s);
      };
      const mx::array x_per_pair = mx::take(stacked(x), mx::flatten(lhs_positions(), s), 0, s);
      return mx::reshape(sum_of_products_by_index(op(), "rhs_indices", stacked(dy), x_per_pair, mx::flatten(rhs_positions(), s),
                                                  count_of(w_leading), s),
                         shape, s);
    }
    // If w has no leading dimensions, all rows belong to one product.
    const auto rows = [&](const mx::array& a) {
      const int count = count_of(leading_shape(a)) * a.shape(-2);
      return mx::astype(w_leading.empty() ? mx::reshape(a, {count, a.shape(-1)}, s) : a, mx::float32, s);
    };
    return sum_over_broadcast(mx::matmul(mx::swapaxes(rows(dy), -1, -2, s), rows(x), s), shape, s);
  };

  std::vector<mx::array> gradients;
  std::optional<mx::array> matrices;
  for (const int argnum : argnums) {
    const auto input = static_cast<std::size_t>(argnum);
    if (input == 0) {
      gradients.push_back(d_x());
    } else if (input <= weights_) {
      const std::size_t weight = input - 1;
      check_differentiable(weight);
      if (!matrices) {
        matrices = d_matrices();
      }
      gradients.push_back(mx::astype(weight_vjp(operands, weight, *matrices), primals[input].dtype(), s));
    } else {
      refuse_gradient_of_indices();
    }
  }
  return gradients;
}

std::pair<std::vector<mx::array>, std::vector<int>> Product::vmap(const std::vector<mx::array>& inputs,
                                                                  const std::vector<int>& axes) {
  const mx::Stream s = stream();
  ProductArrays operands = operands_of(inputs);
  const auto weight_axis = [&](std::size_t weight) { return axes[1 + weight]; };
  const bool x_is_batched = axes.front() >= 0;
  const bool weights_are_batched =
      std::any_of(axes.begin() + 1, axes.begin() + 1 + static_cast<std::ptrdiff_t>(weights_), [](int axis) { return axis >= 0; });
  int batch = 0;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (axes[i] >= 0) {
      batch = inputs[i].shape(axes[i]);
    }
  }

  // These ranks do not count the batch dimension.
  const auto rank_of = [](const mx::array& a, int axis) { return static_cast<int>(a.ndim()) - (axis >= 0 ? 1 : 0); };
  const int x_leading = rank_of(operands.x, axes.front()) - 2;
  const int w_leading = rank_of(operands.weights.front(), weight_axis(0)) - 2;
  // Without indices the leading dimensions broadcast. The weights get as many as x, so that none aligns with the batch dimension.
  const int w_padded = operands.has_indices() ? w_leading : std::max(w_leading, x_leading);

  if (x_is_batched) {
    operands.x = batch_first(operands.x, axes.front(), x_leading + 2, s);
  }
  if (weights_are_batched) {
    for (std::size_t i = 0; i < weights_; ++i) {
      mx::array& weight = operands.weights[i];
      const int axis = weight_axis(i);
      const int rank = w_padded + matrix_rank(i);
      const mx::array first =
          axis >= 0 ? batch_first(weight, axis, rank, s) : batch_first(mx::expand_dims(weight, 0, s), 0, rank, s);
      const mx::array& w = operands.weights.front();  // it has its final shape already, except at i = 0
      mx::Shape shape = first.shape();
      shape[0] = batch;
      if (matrix_rank(i) == 0) {
        shape = leading_shape(w);
      }
      weight = mx::broadcast_to(first, shape, s);
    }
  }
  if (operands.has_indices()) {
    std::size_t input = 1 + weights_;
    const auto axis_of = [&](const std::optional<mx::array>& indices) { return indices ? axes[input++] : -1; };
    const int lhs_axis = axis_of(operands.lhs_indices);
    const int rhs_axis = axis_of(operands.rhs_indices);
    const auto without_batch = [&](const mx::array& a, bool batched) {
      const mx::Shape leading = leading_shape(a);
      return batched ? mx::Shape(leading.begin() + 1, leading.end()) : leading;
    };
    const mx::Shape x_shape = without_batch(operands.x, x_is_batched);
    const mx::Shape w_shape = without_batch(operands.weights.front(), weights_are_batched);
    mx::array lhs = explicit_indices(operands.lhs_indices, x_shape, s);
    mx::array rhs = explicit_indices(operands.rhs_indices, w_shape, s);
    const int rank = std::max(rank_of(lhs, lhs_axis), rank_of(rhs, rhs_axis));
    // Makes flat positions in the operand with its batch. Each is checked before the offset is added. Otherwise a position out of
    // range would select a matrix of another element of the batch.
    const auto flat_positions = [&](const char* which, mx::array indices, int axis, bool operand_is_batched,
                                    const mx::Shape& leading) {
      if (axis >= 0) {
        indices = batch_first(indices, axis, rank, s);
      }
      if (!operand_is_batched) {
        return indices;
      }
      const mx::array offsets = mx::reshape(batch_offsets(batch, count_of(leading), s),
                                            concatenate({batch}, mx::Shape(static_cast<std::size_t>(rank), 1)), s);
      return mx::add(checked_indices(op(), which, indices, count_of(leading), s), offsets, s);
    };
    operands.lhs_indices = flat_positions("lhs_indices", lhs, lhs_axis, x_is_batched, x_shape);
    operands.rhs_indices = flat_positions("rhs_indices", rhs, rhs_axis, weights_are_batched, w_shape);
  }
  return {{apply(operands)}, {0}};
}

}  // namespace gqmm::mlx
