#include "quantized_product.hpp"

#include "arrays.hpp"
#include "indexing.hpp"

#include <mlx/ops.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace gqmm::mlx {
namespace {

constexpr std::size_t w_position = 0;
constexpr std::size_t scales_position = 1;
constexpr std::size_t biases_position = 2;

/// Makes arguments of gqmm::gather_qmm. `as_array` turns an array of MLX into one of gqmm.
template <class AsArray>
QuantizedWeights weights_of(const ProductArrays& operands, const QuantizedProductSettings& settings, AsArray as_array) {
  QuantizedWeights weights = settings.weights.without_arrays();
  weights.w = as_array(operands.weights[w_position]);
  weights.scales = as_array(operands.weights[scales_position]);
  if (settings.has_biases) {
    weights.biases = as_array(operands.weights[biases_position]);
  }
  if (settings.has_global_scale) {
    weights.global_scale = as_array(operands.weights.back());
  }
  return weights;
}

template <class AsArray>
GatherQmmOptions options_of(const ProductArrays& operands, const QuantizedProductSettings& settings, AsArray as_array) {
  const auto optional = [&](const std::optional<mx::array>& a) { return a ? std::optional(as_array(*a)) : std::nullopt; };
  return {.lhs_indices = optional(operands.lhs_indices),
          .rhs_indices = optional(operands.rhs_indices),
          .precision = settings.precision};
}

}  // namespace

ResultType result_of_quantized_product(const ProductArrays& operands, const QuantizedProductSettings& settings) {
  const array x = outline_of(operands.x);
  const QuantizedWeights weights = weights_of(operands, settings, outline_of);
  if (operands.has_indices() || settings.has_global_scale) {
    return infer_gather_qmm(x, weights, options_of(operands, settings, outline_of));
  }
  return infer_quantized_matmul(x, weights, {.precision = settings.precision});
}

void multiply_by_packed(const ProductArrays& operands, const QuantizedProductSettings& settings, const PackedWeights& packed,
                        mx::array& y) {
  GatherQmmOptions options = options_of(operands, settings, view_of);
  options.out = writable_view_of(y);
  const array x = view_of(operands.x);
  if (settings.has_global_scale) {
    gqmm::gather_qmm(x, packed.with_global_scale(view_of(operands.weights.back()), "gather_qmm"), options);
  } else {
    gqmm::gather_qmm(x, packed, options);
  }
}

QuantizedProduct::QuantizedProduct(mx::Stream stream, const ProductArrays& operands, const QuantizedProductSettings& settings,
                                   std::shared_ptr<PackedCopy> packed)
    : Product(stream, operands), settings_(settings), packed_(std::move(packed)) {}

bool QuantizedProduct::is_equivalent(const Primitive& other) const {
  const auto& that = static_cast<const QuantizedProduct&>(other);
  return has_roles_of(that) && settings_ == that.settings_;
}

ResultType QuantizedProduct::result_of(const ProductArrays& operands) const {
  return result_of_quantized_product(operands, settings_);
}

Product::Kernel QuantizedProduct::kernel(const ProductArrays& inputs) const {
  // After mx.compile the weights may differ from those that this product was built with.
  const bool is_of_these = packed_ != nullptr && packed_->is_of(inputs.weights);
  return [settings = settings_, packed = is_of_these ? packed_ : nullptr](const ProductArrays& operands, mx::array& y) {
    const std::optional<PackedWeights> copy = packed ? packed->use() : std::nullopt;
    if (copy) {
      multiply_by_packed(operands, settings, *copy, y);
      return;
    }
    GatherQmmOptions options = options_of(operands, settings, view_of);
    options.out = writable_view_of(y);
    gqmm::gather_qmm(view_of(operands.x), weights_of(operands, settings, view_of), options);
  };
}

mx::array QuantizedProduct::apply(const ProductArrays& operands) { return quantized_product(operands, settings_, stream()); }

mx::array QuantizedProduct::apply_transposed(const ProductArrays& operands) {
  QuantizedProductSettings settings = settings_;
  settings.weights.transpose = !settings.weights.transpose;
  return quantized_product(operands, settings, stream());
}

int QuantizedProduct::matrix_rank(std::size_t weight) const {
  const std::size_t of_matrices = settings_.has_biases ? 3 : 2;
  return weight < of_matrices ? 2 : 0;
}

mx::array QuantizedProduct::weights_jvp(const ProductArrays& operands, const std::vector<std::optional<mx::array>>& tangents) {
  ProductArrays changed = operands;
  for (const std::size_t position : {scales_position, biases_position}) {
    changed.weights[position] = tangents[position] ? *tangents[position] : mx::zeros_like(operands.weights[position], stream());
  }
  return apply(changed);
}

void QuantizedProduct::refuse_gradient_of_indices() const {
  throw std::runtime_error(std::string("[") + op() + "] indices have no gradient; use stop_gradient on them.");
}

void QuantizedProduct::check_differentiable(std::size_t weight) const {
  const std::string where = std::string("[") + op() + "] ";
  if (weight == w_position) {
    throw std::runtime_error(where + "no gradient wrt the quantized weights.");
  }
  if (matrix_rank(weight) == 0) {
    throw std::invalid_argument(where + "no gradient wrt global_scale.");
  }
  if (settings_.weights.mode != Mode::affine) {
    throw std::invalid_argument(where + "no gradient wrt scales in " + std::string(name_of(settings_.weights.mode)) +
                                " quantization.");
  }
}

// y = x @ (scale · code + bias). So the gradient of a scale is the sum of d_matrix · code over its group. The gradient of a bias
// is the sum of d_matrix over its group.
mx::array QuantizedProduct::weight_vjp(const ProductArrays& operands, std::size_t weight, const mx::array& d_matrices) {
  const mx::Stream s = stream();
  const mx::array in_stored_order = settings_.weights.transpose ? d_matrices : mx::swapaxes(d_matrices, -1, -2, s);
  const auto by_group = [&](const mx::array& a) { return mx::unflatten(a, -1, {-1, settings_.weights.group_size}, s); };
  const mx::array d_groups = by_group(in_stored_order);
  if (weight == biases_position) {
    return mx::sum(d_groups, -1, false, s);
  }
  const mx::array ones = mx::ones(operands.weights[scales_position].shape(), mx::float32, s);
  const mx::array codes =
      mx::dequantize(operands.weights[w_position], ones, mx::zeros_like(ones, s), settings_.weights.group_size,
                     settings_.weights.bits, "affine", std::nullopt, std::nullopt, s);
  return mx::sum(mx::multiply(d_groups, by_group(codes), s), -1, false, s);
}

mx::array quantized_product(const ProductArrays& operands, const QuantizedProductSettings& settings, mx::Stream stream,
                            std::shared_ptr<PackedCopy> packed) {
  const ResultType result = result_of_quantized_product(operands, settings);
  return mx::array({result.shape.begin(), result.shape.end()}, mlx_dtype(result.dtype),
                   std::make_shared<QuantizedProduct>(stream, operands, settings, std::move(packed)), operands.flatten());
}

}  // namespace gqmm::mlx
