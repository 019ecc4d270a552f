// gather_mm as a primitive of MLX.
#pragma once

#include "product.hpp"

namespace gqmm::mlx {

/// The primitive of gather_mm. Its only weight is b, of shape (…, K, N).
class DenseProduct final : public Product {
 public:
  using Product::Product;

  [[nodiscard]] const char* name() const override { return "GqmmGatherMM"; }
  [[nodiscard]] bool is_equivalent(const Primitive& other) const override;

 protected:
  [[nodiscard]] const char* op() const override { return "gather_mm"; }
  [[nodiscard]] std::pair<const char*, const char*> operand_names() const override { return {"a", "b"}; }
  [[nodiscard]] Kernel kernel(const ProductArrays& operands) const override;
  [[nodiscard]] ResultType result_of(const ProductArrays& operands) const override;
  mx::array apply(const ProductArrays& operands) override;
  mx::array apply_transposed(const ProductArrays& operands) override;
  mx::array weights_jvp(const ProductArrays& operands, const std::vector<std::optional<mx::array>>& tangents) override;
  [[noreturn]] void refuse_gradient_of_indices() const override;
  void check_differentiable(std::size_t) const override {}
  mx::array weight_vjp(const ProductArrays& operands, std::size_t weight, const mx::array& d_matrices) override;
};

/// Makes the product as an array of a graph. Throws std::invalid_argument as gqmm::gather_mm does for shapes and types.
mx::array dense_product(const ProductArrays& operands, mx::Stream stream);

}  // namespace gqmm::mlx
