#include "functions.hpp"

#include "arrays.hpp"
#include "dense_product.hpp"
#include "packed_product.hpp"
#include "quantized_product.hpp"
#include "stock.hpp"

#include <mlx/ops.h>

#include <utility>

namespace gqmm::mlx {
namespace {

mx::array stock(const mx::array& x, const QuantizedArguments& a, bool gathers) {
  return gathers ? stock_gather_qmm(x, a)
                 : mx::quantized_matmul(x, a.w, a.scales, a.biases, a.transpose, a.group_size, a.bits, a.mode, a.stream);
}

mx::array product(const mx::array& x, const QuantizedArguments& a, bool gathers) {
  const char* op = gathers ? "gather_qmm" : "quantized_matmul";
  CallCounts& calls = gathers ? counts().gather_qmm : counts().quantized_matmul;
  const mx::Stream stream = mx::to_stream(a.stream);
  const std::optional<Mode> mode = find_mode(a.mode);
  if (!is_on_cpu(stream) || !mode || !is_compute_type(x)) {
    ++calls.stock;
    return stock(x, a, gathers);
  }
  const QuantizedWeights resolved =
      QuantizedWeights{.mode = *mode, .bits = a.bits, .group_size = a.group_size, .transpose = a.transpose}.resolved(op);
  const QuantizedProductSettings settings = {
      .weights = {.mode = *mode, .bits = *resolved.bits, .group_size = *resolved.group_size, .transpose = a.transpose},
      .precision = a.precision,
      .has_biases = a.biases.has_value(),
      .has_global_scale = a.global_scale.has_value(),
  };
  ProductArrays operands = {.x = x, .weights = {a.w, a.scales}, .lhs_indices = a.lhs_indices, .rhs_indices = a.rhs_indices};
  if (a.biases) {
    operands.weights.push_back(*a.biases);
  }
  std::shared_ptr<const PackedParameters> parameters = PackedParameters::of_parts(operands.weights);
  if (parameters && !settings.weights.are_of(parameters->weights())) {
    parameters = nullptr;
  }
  std::shared_ptr<PackedCopy> packed;
  if (a.find_packed_copy && a.transpose && !parameters) {
    packed = a.find_packed_copy(operands.weights, settings.weights);
  }
  if (a.global_scale) {  // a single value of any shape becomes a scalar
    operands.weights.push_back(a.global_scale->size() == 1 ? mx::reshape(*a.global_scale, {}, stream) : *a.global_scale);
  }
  const bool is_vector = x.ndim() == 1 && !operands.has_indices();
  if (is_vector) {
    operands.x = mx::expand_dims(x, 0, stream);
  }
  const mx::array y = parameters ? packed_product(operands, settings, stream, std::move(parameters))
                                 : quantized_product(operands, settings, stream, std::move(packed));
  ++calls.ours;
  return is_vector ? mx::squeeze(y, -2, stream) : y;
}

/// Makes the dense product. A vector in front is a row, and one behind a column; its dimension is dropped from the result.
mx::array product_of_vectors_or_matrices(const mx::array& a, const mx::array& b, const std::optional<mx::array>& lhs_indices,
                                         const std::optional<mx::array>& rhs_indices, mx::Stream stream) {
  const mx::array rows = a.ndim() == 1 ? mx::expand_dims(a, 0, stream) : a;
  const mx::array columns = b.ndim() == 1 ? mx::expand_dims(b, 1, stream) : b;
  mx::array y = dense_product({.x = rows, .weights = {columns}, .lhs_indices = lhs_indices, .rhs_indices = rhs_indices}, stream);
  if (b.ndim() == 1) {
    y = mx::squeeze(y, -1, stream);
  }
  if (a.ndim() == 1) {
    y = mx::squeeze(y, b.ndim() == 1 ? -1 : -2, stream);
  }
  return y;
}

/// Whether gqmm has a dense product of these operands. Sums of nothing are left to MLX.
bool serves_product(const mx::array& a, const mx::array& b) {
  return is_compute_type(a) && is_compute_type(b) && a.ndim() != 0 && b.ndim() != 0 && a.shape(-1) != 0;
}

}  // namespace

FunctionCounts& counts() {
  static FunctionCounts counts;
  return counts;
}

mx::array quantized_matmul(const mx::array& x, const QuantizedArguments& arguments) { return product(x, arguments, false); }

mx::array gather_qmm(const mx::array& x, const QuantizedArguments& arguments) { return product(x, arguments, true); }

mx::array gather_mm(const mx::array& a, const mx::array& b, const std::optional<mx::array>& lhs_indices,
                    const std::optional<mx::array>& rhs_indices, bool sorted_indices, mx::StreamOrDevice stream_or_device) {
  const mx::Stream stream = mx::to_stream(stream_or_device);
  const bool has_indices = lhs_indices || rhs_indices;  // without indices MLX uses its own dense product
  if (!is_on_cpu(stream) || !has_indices || !is_compute_type(a) || !is_compute_type(b) || a.ndim() == 0 || b.ndim() == 0) {
    ++counts().gather_mm.stock;
    return mx::gather_mm(a, b, lhs_indices, rhs_indices, sorted_indices, stream);
  }
  ++counts().gather_mm.ours;
  return product_of_vectors_or_matrices(a, b, lhs_indices, rhs_indices, stream);
}

mx::array matmul(const mx::array& a, const mx::array& b, mx::StreamOrDevice stream_or_device) {
  const mx::Stream stream = mx::to_stream(stream_or_device);
  if (!is_on_cpu(stream) || !serves_product(a, b)) {
    ++counts().matmul.stock;
    return mx::matmul(a, b, stream);
  }
  ++counts().matmul.ours;
  return product_of_vectors_or_matrices(a, b, std::nullopt, std::nullopt, stream);
}

mx::array addmm(const mx::array& c, const mx::array& a, const mx::array& b, float alpha, float beta,
                mx::StreamOrDevice stream_or_device) {
  const mx::Stream stream = mx::to_stream(stream_or_device);
  if (!is_on_cpu(stream) || !serves_product(a, b) || !is_compute_type(c)) {
    ++counts().matmul.stock;
    return mx::addmm(c, a, b, alpha, beta, stream);
  }
  const auto scaled = [&](const mx::array& y, float factor) {
    return factor == 1 ? y : mx::multiply(y, mx::array(factor, y.dtype()), stream);
  };
  return mx::add(scaled(mlx::matmul(a, b, stream), alpha), scaled(c, beta), stream);
}

}  // namespace gqmm::mlx
