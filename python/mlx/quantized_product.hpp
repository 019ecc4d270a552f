// gather_qmm and quantized_matmul as one primitive of MLX.
#pragma once

#include "packed_copy.hpp"
#include "product.hpp"

#include <gqmm/ops.hpp>

#include <memory>

namespace gqmm::mlx {

struct QuantizedProductSettings {
  Mode mode = Mode::affine;
  int bits = 4;
  int group_size = 64;
  bool transpose = true;
  Precision precision = Precision::standard;
  bool has_biases = true;
  bool has_global_scale = false;
  /// Whether packed weights were packed for products with these settings.
  [[nodiscard]] bool are_of(const PackedWeights& packed) const {
    return mode == packed.mode() && bits == packed.bits() && group_size == packed.group_size() && transpose == packed.transpose();
  }
  friend bool operator==(const QuantizedProductSettings&, const QuantizedProductSettings&) = default;
};

/// weights: w, scales, and those that there are of biases and global_scale.
class QuantizedProduct final : public Product {
 public:
  QuantizedProduct(mx::Stream stream, const Operands& operands, const QuantizedProductSettings& settings,
                   std::shared_ptr<PackedCopy> packed);

  [[nodiscard]] const char* name() const override { return "GqmmQuantizedProduct"; }
  [[nodiscard]] bool is_equivalent(const Primitive& other) const override;

 protected:
  [[nodiscard]] const char* op() const override { return has_indices() ? "gather_qmm" : "quantized_matmul"; }
  [[nodiscard]] std::pair<const char*, const char*> operand_names() const override { return {"x", "w"}; }
  [[nodiscard]] Kernel kernel(const Operands& operands) const override;
  [[nodiscard]] ResultType result_of(const Operands& operands) const override;
  mx::array apply(const Operands& operands) override;
  mx::array apply_transposed(const Operands& operands) override;
  [[nodiscard]] int matrix_rank(std::size_t weight) const override;
  mx::array weights_jvp(const Operands& operands, const std::vector<std::optional<mx::array>>& tangents) override;
  [[noreturn]] void refuse_gradient_of_indices() const override;
  void check_differentiable(std::size_t weight) const override;
  mx::array weight_vjp(const Operands& operands, std::size_t weight, const mx::array& d_matrices) override;

 private:
  QuantizedProductSettings settings_;
  std::shared_ptr<PackedCopy> packed_;
};

/// Shape and type of a product. Throws std::invalid_argument as gqmm::gather_qmm does.
ResultType result_of_quantized_product(const Operands& operands, const QuantizedProductSettings& settings);
/// The options of a product over packed weights, once the operands, of which the parts are not read, have been evaluated.
GatherQmmOptions packed_options(const Operands& operands, const QuantizedProductSettings& settings);

/// The product as an array of a graph. Throws std::invalid_argument as gqmm::gather_qmm does for shapes and types.
mx::array quantized_product(const Operands& operands, const QuantizedProductSettings& settings, mx::Stream stream,
                            std::shared_ptr<PackedCopy> packed = {});

}  // namespace gqmm::mlx
