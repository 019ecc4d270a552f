// gather_mm as a primitive of MLX.
#pragma once

#include "product.hpp"

namespace gqmm::mlx {

/// weights: b, (…, K, N).
class DenseProduct final : public Product {
 public:
  using Product::Product;

  [[nodiscard]] const char* name() const override { return "GqmmGatherMM"; }
  [[nodiscard]] bool is_equivalent(const Primitive& other) const override;

 protected:
  [[nodiscard]] const char* op() const override { return "gather_mm"; }
  [[nodiscard]] std::pair<const char*, const char*> operand_names() const override { return {"a", "b"}; }
  [[nodiscard]] Kernel kernel(const Operands& operands) const override;
  [[nodiscard]] ResultType result_of(const Operands& operands) const override;
  mx::array apply(const Operands& operands) override;
  mx::array apply_transposed(const Operands& operands) override;
  mx::array weights_jvp(const Operands& operands, const std::vector<std::optional<mx::array>>& tangents) override;
  [[noreturn]] void refuse_gradient_of_indices() const override;
  void check_differentiable(std::size_t) const override {}
  mx::array weight_vjp(const Operands& operands, std::size_t weight, const mx::array& d_matrices) override;
};

/// The product as an array of a graph. Throws std::invalid_argument as gqmm::gather_mm does for shapes and types.
mx::array dense_product(const Operands& operands, mx::Stream stream);

}  // namespace gqmm::mlx
