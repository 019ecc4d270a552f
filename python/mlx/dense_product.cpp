#include "dense_product.hpp"

#include "arrays.hpp"

#include <gqmm/infer.hpp>
#include <gqmm/ops.hpp>

#include <mlx/ops.h>

#include <memory>
#include <stdexcept>
#include <string>

namespace gqmm::mlx {
namespace {

template <class AsArray>
GatherMmOptions options_of(const ProductArrays& operands, AsArray as_array) {
  const auto optional = [&](const std::optional<mx::array>& a) { return a ? std::optional(as_array(*a)) : std::nullopt; };
  return {.lhs_indices = optional(operands.lhs_indices), .rhs_indices = optional(operands.rhs_indices)};
}

ResultType result_of_dense_product(const ProductArrays& operands) {
  return infer_gather_mm(outline_of(operands.x), outline_of(operands.weights.front()), options_of(operands, outline_of));
}

}  // namespace

bool DenseProduct::is_equivalent(const Primitive& other) const { return has_roles_of(static_cast<const DenseProduct&>(other)); }

ResultType DenseProduct::result_of(const ProductArrays& operands) const { return result_of_dense_product(operands); }

Product::Kernel DenseProduct::kernel(const ProductArrays&) const {
  return [](const ProductArrays& operands, mx::array& y) {
    GatherMmOptions options = options_of(operands, view_of);
    options.out = writable_view_of(y);
    gqmm::gather_mm(view_of(operands.x), view_of(operands.weights.front()), options);
  };
}

mx::array DenseProduct::apply(const ProductArrays& operands) { return dense_product(operands, stream()); }

mx::array DenseProduct::apply_transposed(const ProductArrays& operands) {
  ProductArrays transposed = operands;
  transposed.weights.front() = mx::swapaxes(operands.weights.front(), -1, -2, stream());
  return apply(transposed);
}

mx::array DenseProduct::weights_jvp(const ProductArrays& operands, const std::vector<std::optional<mx::array>>& tangents) {
  ProductArrays changed = operands;
  changed.weights.front() = *tangents.front();
  return apply(changed);
}

void DenseProduct::refuse_gradient_of_indices() const {
  throw std::invalid_argument(std::string("[") + op() + "] indices have no gradient; use stop_gradient on them.");
}

mx::array DenseProduct::weight_vjp(const ProductArrays&, std::size_t, const mx::array& d_matrices) {
  return mx::swapaxes(d_matrices, -1, -2, stream());
}

mx::array dense_product(const ProductArrays& operands, mx::Stream stream) {
  const ResultType result = result_of_dense_product(operands);
  return mx::array({result.shape.begin(), result.shape.end()}, mlx_dtype(result.dtype),
                   std::make_shared<DenseProduct>(stream, operands), operands.flatten());
}

}  // namespace gqmm::mlx
