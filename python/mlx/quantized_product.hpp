// gather_qmm and quantized_matmul as one primitive of MLX.
#pragma once

#include "packed_copy.hpp"
#include "product.hpp"
#include "weight_settings.hpp"

#include <gqmm/ops.hpp>

#include <memory>

namespace gqmm::mlx {

struct QuantizedProductSettings {
  WeightSettings weights;
  Precision precision = Precision::standard;
  bool has_biases = true;
  bool has_global_scale = false;
  friend bool operator==(const QuantizedProductSettings&, const QuantizedProductSettings&) = default;
};

/// The primitive of both functions. Its weights are w, scales, and biases and global_scale if they were given.
class QuantizedProduct final : public Product {
 public:
  QuantizedProduct(mx::Stream stream, const ProductArrays& operands, const QuantizedProductSettings& settings,
                   std::shared_ptr<PackedCopy> packed);

  [[nodiscard]] const char* name() const override { return "GqmmQuantizedProduct"; }
  [[nodiscard]] bool is_equivalent(const Primitive& other) const override;

 protected:
  [[nodiscard]] const char* op() const override { return has_indices() ? "gather_qmm" : "quantized_matmul"; }
  [[nodiscard]] std::pair<const char*, const char*> operand_names() const override { return {"x", "w"}; }
  [[nodiscard]] Kernel kernel(const ProductArrays& operands) const override;
  [[nodiscard]] ResultType result_of(const ProductArrays& operands) const override;
  mx::array apply(const ProductArrays& operands) override;
  mx::array apply_transposed(const ProductArrays& operands) override;
  [[nodiscard]] int matrix_rank(std::size_t weight) const override;
  mx::array weights_jvp(const ProductArrays& operands, const std::vector<std::optional<mx::array>>& tangents) override;
  [[noreturn]] void refuse_gradient_of_indices() const override;
  void check_differentiable(std::size_t weight) const override;
  mx::array weight_vjp(const ProductArrays& operands, std::size_t weight, const mx::array& d_matrices) override;

 private:
  QuantizedProductSettings settings_;
  std::shared_ptr<PackedCopy> packed_;
};

/// Returns the shape and type of a product. Throws std::invalid_argument as gqmm::gather_qmm does.
ResultType result_of_quantized_product(const ProductArrays& operands, const QuantizedProductSettings& settings);
/// Computes y with packed weights. They replace w, scales and biases, which are not read. The other operands must have been
/// evaluated.
void multiply_by_packed(const ProductArrays& operands, const QuantizedProductSettings& settings, const PackedWeights& packed,
                        mx::array& y);

/// Makes the product as an array of a graph. Throws std::invalid_argument as gqmm::gather_qmm does for shapes and types.
mx::array quantized_product(const ProductArrays& operands, const QuantizedProductSettings& settings, mx::Stream stream,
                            std::shared_ptr<PackedCopy> packed = {});

}  // namespace gqmm::mlx
