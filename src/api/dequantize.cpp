// dequantize: converts codes, scales and biases back to floats, in the arithmetic of mlx.core.dequantize.
#include "api/check.hpp"
#include "api/weights.hpp"
#include "arrays/contiguous.hpp"
#include "threads/node_binding.hpp"
#include "weights/dequantize_matrices.hpp"

#include <gqmm/ops.hpp>

#include <cstdint>

namespace gqmm {

using namespace detail;

namespace {

constexpr std::string_view op = "dequantize";

Dtype output_dtype(const Format& format, const QuantizedWeights& weights, const DequantizeOptions& options) {
  if (options.dtype && !is_compute_float(*options.dtype)) {
    fail(op, "dtype = {} is not available; use float32, float16 or bfloat16", name_of(*options.dtype));
  }
  if (weights.global_scale) {
    return Dtype::float32;  // in any case, as in MLX
  }
  if (options.dtype) {
    return *options.dtype;
  }
  return format.scale_encoding == ScaleEncoding::floating ? promote(weights.scales.dtype(), weights.biases->dtype())
                                                          : Dtype::bfloat16;
}

DequantizedTypes types_of(const Format& format, const QuantizedWeights& weights, Dtype output) {
  if (format.scale_encoding == ScaleEncoding::floating) {
    const Dtype scale = weights.scales.dtype();
    return {.product = scale, .sum = promote(scale, weights.biases->dtype()), .result = output};
  }
  return {.product = output, .sum = output, .result = output};
}

}  // namespace

array dequantize(const QuantizedWeights& weights, const DequantizeOptions& options) {
  const threads::NodeBinding binding(options.stream);
  check_stream(op, options.stream);
  const QuantizationSettings settings = settings_of(op, weights);
  const Shape shape = dequantized_shape(weights, check_weights(op, weights, settings, {}));
  const Dtype output = output_dtype(*settings.format, weights, options);
  checked_product(op, "bytes of the result", checked_count(op, "the result", shape), static_cast<std::int64_t>(size_of(output)));
  array result = array::empty(shape, output);

  const array words = to_contiguous_rows(weights.w);
  QuantizedMatrices matrices = {.settings = settings,
                                .layout = weights.transpose ? WeightLayout::rows_along_k : WeightLayout::rows_along_n,
                                .codes = MatrixBatch(words),
                                .scales = MatrixBatch(weights.scales),
                                .biases = weights.biases ? MatrixBatch(*weights.biases) : MatrixBatch(),
                                .global_scale = {}};
  if (weights.global_scale) {
    matrices.global_scale = MatrixBatch(global_scale_per_matrix(*weights.global_scale, leading_shape(words)));
  }
  matrices.experts = matrices.codes.count();
  dequantize_matrices(matrices, types_of(*settings.format, weights, output), result.mutable_bytes());
  return result;
}

}  // namespace gqmm
