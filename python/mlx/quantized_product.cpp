#include "quantized_product.hpp"

#include "api/lower.hpp"
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

/// Arguments of gqmm::gather_qmm; `as_array` turns an array of MLX into one of gqmm.
template <class AsArray>
GatherQmmOptions options_of(const Operands& operands, const QuantizedProductSettings& settings, AsArray as_array) {
  const auto optional = [&](const std::optional<mx::array>& a) { return a ? std::optional(as_array(*a)) : std::nullopt; };
  GatherQmmOptions options = {
      .scales = as_array(operands.weights[scales_position]),
      .lhs_indices = optional(operands.lhs_indices),
      .rhs_indices = optional(operands.rhs_indices),
      .transpose = settings.transpose,
      .group_size = settings.group_size,
      .bits = settings.bits,
      .mode = settings.mode,
      .precision = settings.precision,
  };
  if (settings.has_biases) {
    options.biases = as_array(operands.weights[biases_position]);
  }
  if (settings.has_global_scale) {
    options.global_scale = as_array(operands.weights.back());
  }
  return options;
}

}  // namespace

ResultType result_of_quantized_product(const Operands& operands, const QuantizedProductSettings& settings) {
  const GatherQmmOptions options = options_of(operands, settings, outline_of);
  const auto result = operands.has_indices() || settings.has_global_scale ? result_of_gather_qmm : result_of_quantized_matmul;
  return result(outline_of(operands.x), outline_of(operands.weights[w_position]), options);
}

GatherQmmOptions packed_options(const Operands& operands, const QuantizedProductSettings& settings) {
  const auto optional = [&](const std::optional<mx::array>& a) { return a ? std::optional(view_of(*a)) : std::nullopt; };
  GatherQmmOptions options = {.lhs_indices = optional(operands.lhs_indices),
                              .rhs_indices = optional(operands.rhs_indices),
                              .precision = settings.precision};
  if (settings.has_global_scale) {
    options.global_scale = view_of(operands.weights.back());
  }
  return options;
}

QuantizedProduct::QuantizedProduct(mx::Stream stream, const Operands& operands, const QuantizedProductSettings& settings,
                                   std::shared_ptr<PackedCopy> packed)
    : Product(stream, operands), settings_(settings), packed_(std::move(packed)) {}

bool QuantizedProduct::is_equivalent(const Primitive& other) const {
  const auto& that = static_cast<const QuantizedProduct&>(other);
  return has_roles_of(that) && settings_ == that.settings_;
}

ResultType QuantizedProduct::result_of(const Operands& operands) const {
  return result_of_quantized_product(operands, settings_);
}

Product::Kernel QuantizedProduct::kernel(const Operands& inputs) const {
  // After mx.compile the weights may be others than those that this product was built with.
  const bool is_of_these = packed_ != nullptr && packed_->is_of(inputs.weights);
  return [settings = settings_, packed = is_of_these ? packed_ : nullptr](const Operands& operands, mx::array& y) {
    const array x = view_of(operands.x);
    GatherQmmOptions options = options_of(operands, settings, view_of);
    options.out = writable_view_of(y);
    const std::optional<PackedWeights> copy = packed ? packed->use() : std::nullopt;
    if (copy) {
      options.scales.reset();
      options.biases.reset();
      gqmm::gather_qmm(x, *copy, options);
    } else {
      gqmm::gather_qmm(x, view_of(operands.weights[w_position]), options);
    }
  };
}

mx::array QuantizedProduct::apply(const Operands& operands) { return quantized_product(operands, settings_, stream()); }

mx::array QuantizedProduct::apply_transposed(const Operands& operands) {
  QuantizedProductSettings settings = settings_;
  settings.transpose = !settings.transpose;
  return quantized_product(operands, settings, stream());
}

int QuantizedProduct::matrix_rank(std::size_t weight) const {
  const std::size_t of_matrices = settings_.has_biases ? 3 : 2;
  return weight < of_matrices ? 2 : 0;
}

mx::array QuantizedProduct::weights_jvp(const Operands& operands, const std::vector<std::optional<mx::array>>& tangents) {
  Operands changed = operands;
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
  if (settings_.mode != Mode::affine) {
    throw std::invalid_argument(where + "no gradient wrt scales in " + std::string(name_of(settings_.mode)) + " quantization.");
  }
}

// y = x @ (scale · code + bias), so a scale gathers d_matrix · code over its group, and a bias d_matrix.
mx::array QuantizedProduct::weight_vjp(const Operands& operands, std::size_t weight, const mx::array& d_matrices) {
  const mx::Stream s = stream();
  const mx::array in_stored_order = settings_.transpose ? d_matrices : mx::swapaxes(d_matrices, -1, -2, s);
  const auto by_group = [&](const mx::array& a) { return mx::unflatten(a, -1, {-1, settings_.group_size}, s); };
  const mx::array d_groups = by_group(in_stored_order);
  if (weight == biases_position) {
    return mx::sum(d_groups, -1, false, s);
  }
  const mx::array ones = mx::ones(operands.weights[scales_position].shape(), mx::float32, s);
  const mx::array codes = mx::dequantize(operands.weights[w_position], ones, mx::zeros_like(ones, s), settings_.group_size,
                                         settings_.bits, "affine", std::nullopt, std::nullopt, s);
  return mx::sum(mx::multiply(d_groups, by_group(codes), s), -1, false, s);
}

mx::array quantized_product(const Operands& operands, const QuantizedProductSettings& settings, mx::Stream stream,
                            std::shared_ptr<PackedCopy> packed) {
  const ResultType result = result_of_quantized_product(operands, settings);
  return mx::array({result.shape.begin(), result.shape.end()}, mlx_dtype(result.dtype),
                   std::make_shared<QuantizedProduct>(stream, operands, settings, std::move(packed)), operands.flatten());
}

}  // namespace gqmm::mlx
