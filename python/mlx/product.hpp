// What the products have in common as primitives of MLX: their transforms, and how they are evaluated.
//
// A product multiplies matrices of x by matrices of weights, selected by optional index arrays as in gqmm::gather_qmm: both
// absent, the leading dimensions of x and of the weights broadcast. It is linear in x and in those weights that are of a floating
// type.
#pragma once

#include "api/lower.hpp"

#include <mlx/primitives.h>

#include <functional>
#include <optional>
#include <utility>
#include <vector>

namespace mx = ::mlx::core;

namespace gqmm::mlx {

/// The arrays of a product. weights[0] has the leading dimensions that rhs_indices select from, and two more.
struct Operands {
  mx::array x;
  std::vector<mx::array> weights;
  std::optional<mx::array> lhs_indices = {};
  std::optional<mx::array> rhs_indices = {};

  [[nodiscard]] bool has_indices() const { return lhs_indices || rhs_indices; }
  /// In the order of a primitive's inputs: x, the weights, the indices that are there.
  [[nodiscard]] std::vector<mx::array> flatten() const;
};

/// The arrays without a hold on their memory, as a task gets them.
std::vector<mx::array> weak_copies(const std::vector<mx::array>& arrays);
/// Allocates `out` and has a stream compute it once `inputs` have been evaluated. After an error it has NaN, or all bits set.
void evaluate_on_stream(mx::Stream stream, const std::vector<mx::array>& inputs, mx::array& out,
                        std::function<void(mx::array& out)> compute);

class Product : public mx::UnaryPrimitive {
 public:
  Product(mx::Stream stream, const Operands& operands);

  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) final;
  void eval_gpu(const std::vector<mx::array>& inputs, mx::array& out) final;
  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) final;

  std::vector<mx::array> jvp(const std::vector<mx::array>& primals, const std::vector<mx::array>& tangents,
                             const std::vector<int>& argnums) final;
  std::vector<mx::array> vjp(const std::vector<mx::array>& primals, const std::vector<mx::array>& cotangents,
                             const std::vector<int>& argnums, const std::vector<mx::array>& outputs) final;
  std::pair<std::vector<mx::array>, std::vector<int>> vmap(const std::vector<mx::array>& inputs,
                                                           const std::vector<int>& axes) final;

  [[nodiscard]] Operands operands_of(const std::vector<mx::array>& inputs) const;
  /// Throws std::runtime_error if indices whose values were there when the graph was built are out of range. An error here leaves
  /// the result unevaluated, so that each later use of it, and of what depends on it, raises it again.
  void check_known_indices(const Operands& operands) const;

 protected:
  [[nodiscard]] bool has_indices() const { return has_lhs_ || has_rhs_; }
  /// Whether the other has as many weights and the same indices.
  [[nodiscard]] bool has_roles_of(const Product& other) const;

  /// What errors call it: the function of the user.
  [[nodiscard]] virtual const char* op() const = 0;
  /// What errors call x and the weights that rhs_indices select from.
  [[nodiscard]] virtual std::pair<const char*, const char*> operand_names() const = 0;
  /// Computes y once the operands have been evaluated. It gets weak copies of them, and may outlive the primitive.
  using Kernel = std::function<void(const Operands&, mx::array& y)>;
  [[nodiscard]] virtual Kernel kernel(const Operands& operands) const = 0;

  /// Shape and type of the product. Throws std::invalid_argument for operands that do not fit.
  [[nodiscard]] virtual ResultType result_of(const Operands& operands) const = 0;
  /// The same product of other operands.
  virtual mx::array apply(const Operands& operands) = 0;
  /// dy times the transposed weights: x's part of the gradient, one matrix per pair. `operands.x` is dy.
  virtual mx::array apply_transposed(const Operands& operands) = 0;
  /// Dimensions of this weight after the leading ones: 2, or 0 for a value per matrix.
  [[nodiscard]] virtual int matrix_rank(std::size_t weight) const;
  /// The part of the tangent that changes of weights cause; an empty optional is a weight that does not change.
  virtual mx::array weights_jvp(const Operands& operands, const std::vector<std::optional<mx::array>>& tangents) = 0;
  /// Throws what MLX's function throws where the gradient of an index is asked for.
  [[noreturn]] virtual void refuse_gradient_of_indices() const = 0;
  /// Throws for a weight that has no gradient.
  virtual void check_differentiable(std::size_t weight) const = 0;
  /// The gradient of a weight, from that of the matrices that it stands for as y = x @ matrix.T has it: (…, N, K), float32.
  virtual mx::array weight_vjp(const Operands& operands, std::size_t weight, const mx::array& d_matrices) = 0;

 private:
  std::size_t weights_;
  bool has_lhs_;
  bool has_rhs_;
  bool knows_lhs_;
  bool knows_rhs_;
};

}  // namespace gqmm::mlx
