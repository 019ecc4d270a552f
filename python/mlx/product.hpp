// The base class of the products as primitives of MLX. It defines their transforms and their evaluation.
//
// A product multiplies matrices of x by matrices of weights. Optional index arrays select the matrices, as in gqmm::gather_qmm.
// If both are absent, the leading dimensions of x and of the weights broadcast. A product is linear in x, and in those weights
// that have a floating-point type.
#pragma once

#include <gqmm/infer.hpp>

#include <mlx/primitives.h>

#include <functional>
#include <optional>
#include <utility>
#include <vector>

namespace mx = ::mlx::core;

namespace gqmm::mlx {

/// The arrays of a product. weights[0] has the leading dimensions that rhs_indices select from, and two more.
struct ProductArrays {
  mx::array x;
  std::vector<mx::array> weights;
  std::optional<mx::array> lhs_indices = {};
  std::optional<mx::array> rhs_indices = {};

  [[nodiscard]] bool has_indices() const { return lhs_indices || rhs_indices; }
  /// Lists the arrays in the order of a primitive's inputs: x, the weights, and the index arrays that were given.
  [[nodiscard]] std::vector<mx::array> flatten() const;
};

/// Copies arrays for a task. The copies do not keep the memory alive.
std::vector<mx::array> weak_copies(const std::vector<mx::array>& arrays);
/// Allocates `out`, if it has no memory yet, and makes a stream compute it after `inputs` have been evaluated. After an error all
/// bits of `out` are set, which is NaN in floating-point types.
void evaluate_on_stream(mx::Stream stream, const std::vector<mx::array>& inputs, mx::array& out,
                        std::function<void(mx::array& out)> compute);
/// The same for several outputs.
void evaluate_on_stream(mx::Stream stream, const std::vector<mx::array>& inputs, std::vector<mx::array>& outs,
                        std::function<void(std::vector<mx::array>& outs)> compute);

class Product : public mx::UnaryPrimitive {
 public:
  Product(mx::Stream stream, const ProductArrays& operands);

  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) final;
  void eval_gpu(const std::vector<mx::array>& inputs, mx::array& out) final;
  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) final;

  std::vector<mx::array> jvp(const std::vector<mx::array>& primals, const std::vector<mx::array>& tangents,
                             const std::vector<int>& argnums) final;
  std::vector<mx::array> vjp(const std::vector<mx::array>& primals, const std::vector<mx::array>& cotangents,
                             const std::vector<int>& argnums, const std::vector<mx::array>& outputs) final;
  std::pair<std::vector<mx::array>, std::vector<int>> vmap(const std::vector<mx::array>& inputs,
                                                           const std::vector<int>& axes) final;

  [[nodiscard]] ProductArrays operands_of(const std::vector<mx::array>& inputs) const;
  /// Throws std::runtime_error if indices are out of range whose values were known when the graph was built. The result then
  /// stays unevaluated, so each later use of it, or of an array that depends on it, raises the error again.
  void check_known_indices(const ProductArrays& operands) const;

 protected:
  [[nodiscard]] bool has_indices() const { return has_lhs_ || has_rhs_; }
  /// Whether the other product has the same number of weights, and the same kinds of index arrays.
  [[nodiscard]] bool has_roles_of(const Product& other) const;

  /// The name of the user's function, for errors.
  [[nodiscard]] virtual const char* op() const = 0;
  /// The names of x, and of the weights that rhs_indices select from, for errors.
  [[nodiscard]] virtual std::pair<const char*, const char*> operand_names() const = 0;
  /// A function that computes y after the operands have been evaluated. It gets weak copies of them, and may outlive the
  /// primitive.
  using Kernel = std::function<void(const ProductArrays&, mx::array& y)>;
  [[nodiscard]] virtual Kernel kernel(const ProductArrays& operands) const = 0;

  /// Returns the shape and type of the product. Throws std::invalid_argument for operands that do not fit each other.
  [[nodiscard]] virtual ResultType result_of(const ProductArrays& operands) const = 0;
  /// Makes the same product of other operands.
  virtual mx::array apply(const ProductArrays& operands) = 0;
  /// Makes the product of dy, which is `operands.x`, and the transposed weights. It is the gradient of x, one matrix per pair.
  virtual mx::array apply_transposed(const ProductArrays& operands) = 0;
  /// The number of dimensions of this weight after the leading ones: 2, or 0 for one value per matrix.
  [[nodiscard]] virtual int matrix_rank(std::size_t weight) const;
  /// Makes the part of the tangent that comes from the weights. A weight without a tangent does not change.
  virtual mx::array weights_jvp(const ProductArrays& operands, const std::vector<std::optional<mx::array>>& tangents) = 0;
  /// Throws the error that MLX's function throws when the gradient of an index is asked for.
  [[noreturn]] virtual void refuse_gradient_of_indices() const = 0;
  /// Throws for a weight that has no gradient.
  virtual void check_differentiable(std::size_t weight) const = 0;
  /// Makes the gradient of a weight from `d_matrices`, the gradient of the dequantized matrices: (…, N, K), float32, for
  /// y = x @ matrix.T.
  virtual mx::array weight_vjp(const ProductArrays& operands, std::size_t weight, const mx::array& d_matrices) = 0;

 private:
  std::size_t weights_;
  bool has_lhs_;
  bool has_rhs_;
  bool knows_lhs_;
  bool knows_rhs_;
};

}  // namespace gqmm::mlx
