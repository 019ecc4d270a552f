#include "sum_of_products.hpp"

#include "arrays.hpp"
#include "dense_product.hpp"
#include "evaluation_errors.hpp"
#include "indexing.hpp"

#include <gqmm/gradients.hpp>
#include <gqmm/infer.hpp>

#include <mlx/allocator.h>
#include <mlx/backend/cpu/encoder.h>
#include <mlx/ops.h>
#include <mlx/primitives.h>

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <tuple>
#include <utility>
#include <vector>

namespace gqmm::mlx {
namespace {

using Arrays = std::vector<mx::array>;

/// y[e] = Σ a[p].T @ b[p]: b is the gradient of products of a[p] with matrix e, and y that of the matrices.
void sum_products(const mx::array& a, const mx::array& b, const mx::array& indices, mx::array& y) {
  GatherMmVjpOptions options = {.rhs_indices = view_of(indices), .wrt = {.a = false, .b = true}};
  options.out.b = writable_view_of(y);
  std::ignore = gather_mm_vjp(view_of(b), view_of(a), outline_of(y), options);
}

class SumOfProducts final : public mx::UnaryPrimitive {
 public:
  SumOfProducts(mx::Stream stream, const char* op, const char* indices_name, int count)
      : UnaryPrimitive(stream), op_(op), indices_name_(indices_name), count_(count) {}

  [[nodiscard]] const char* name() const override { return "GqmmSumOfProducts"; }
  [[nodiscard]] bool is_equivalent(const Primitive& other) const override {
    return count_ == static_cast<const SumOfProducts&>(other).count_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override {
    return {{count_, inputs[0].shape(-1), inputs[1].shape(-1)}};
  }

  void eval_cpu(const Arrays& inputs, mx::array& out) override {
    out.set_data(mx::allocator::malloc(out.nbytes()));
    mx::cpu::get_command_encoder(stream()).dispatch(
        remembering_errors([op = op_, name = indices_name_, count = count_, a = mx::array::unsafe_weak_copy(inputs[0]),
                            b = mx::array::unsafe_weak_copy(inputs[1]), indices = mx::array::unsafe_weak_copy(inputs[2]),
                            y = mx::array::unsafe_weak_copy(out)]() mutable {
          std::fill_n(y.data<float>(), y.size(), 0.0F);
          // The operator would call the matrices b.
          std::ignore =
              gqmm::checked_indices(view_of(indices), {.op = op, .operand = "the operand", .indices_name = name, .count = count});
          if (a.size() != 0 && b.size() != 0) {
            sum_products(a, b, indices, y);
          }
        }));
  }
  void eval_gpu(const Arrays&, mx::array&) override { throw std::runtime_error("GqmmSumOfProducts runs on the CPU only."); }

  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums, const Arrays&) override {
    const mx::Stream s = stream();
    const auto times = [&](const mx::array& x, const mx::array& matrices) {
      return dense_product({.x = x, .weights = {matrices}, .rhs_indices = primals[2]}, s);
    };
    const mx::array& dy = cotangents.front();  // (count, N, K)
    Arrays gradients;
    for (const int argnum : argnums) {
      switch (argnum) {
        case 0: gradients.push_back(times(primals[1], mx::swapaxes(dy, -1, -2, s))); break;
        case 1: gradients.push_back(times(primals[0], dy)); break;
        default: gradients.push_back(mx::zeros_like(primals[2], s));
      }
    }
    return gradients;
  }

  Arrays jvp(const Arrays& primals, const Arrays& tangents, const std::vector<int>& argnums) override {
    mx::array dy = mx::zeros(output_shapes(primals).front(), mx::float32, stream());
    for (std::size_t i = 0; i < argnums.size(); ++i) {
      if (argnums[i] < 2) {
        Arrays moved = primals;
        moved[static_cast<std::size_t>(argnums[i])] = tangents[i];
        dy = mx::add(dy, apply(moved, count_), stream());
      }
    }
    return {dy};
  }

  std::pair<Arrays, std::vector<int>> vmap(const Arrays& inputs, const std::vector<int>& axes) override {
    const mx::Stream s = stream();
    int batch = 1;
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      batch = axes[i] >= 0 ? inputs[i].shape(axes[i]) : batch;
    }
    const auto stacked = [&](std::size_t i) {
      const mx::array first = axes[i] >= 0 ? mx::moveaxis(inputs[i], axes[i], 0, s) : mx::expand_dims(inputs[i], 0, s);
      mx::Shape shape = first.shape();
      shape[0] = batch;
      return mx::broadcast_to(first, shape, s);
    };
    const mx::array indices = mx::add(checked_indices(op_, indices_name_, stacked(2), count_, s),
                                      mx::reshape(batch_offsets(batch, count_, s), {batch, 1}, s), s);
    const mx::array all =
        apply({mx::flatten(stacked(0), 0, 1, s), mx::flatten(stacked(1), 0, 1, s), mx::flatten(indices, s)}, batch * count_);
    return {{mx::unflatten(all, 0, {batch, count_}, s)}, {0}};
  }

 private:
  mx::array apply(const Arrays& inputs, int count) {
    return sum_of_products_by_index(op_, indices_name_, inputs[0], inputs[1], inputs[2], count, stream());
  }

  const char* op_;  // a literal, and so is indices_name_
  const char* indices_name_;
  int count_;
};

}  // namespace

mx::array sum_of_products_by_index(const char* op, const char* name, const mx::array& a, const mx::array& b,
                                   const mx::array& indices, int count, mx::Stream s) {
  const auto as_rows = [&](const mx::array& stack) { return mx::contiguous(mx::astype(stack, mx::float32, s), false, s); };
  return mx::array({count, a.shape(-1), b.shape(-1)}, mx::float32, std::make_shared<SumOfProducts>(s, op, name, count),
                   {as_rows(a), as_rows(b), indices});
}

}  // namespace gqmm::mlx
