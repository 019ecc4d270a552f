// dequantize: codes, scales and biases back to floats, in the arithmetic of mlx.core.dequantize.
#include "api/check.hpp"
#include "api/contiguous.hpp"
#include "api/quantize_group.hpp"
#include "api/weights.hpp"
#include "cpu/float_environment.hpp"
#include "plan/matrix_batch.hpp"
#include "plan/problem.hpp"
#include "threads/interrupt.hpp"

#include <gqmm/ops.hpp>

#include <cstdint>

namespace gqmm {
namespace {

constexpr std::string_view op = "dequantize";

Dtype output_dtype(const Format& format, const array& scales, const DequantizeOptions& options) {
  if (options.dtype && !is_compute_float(*options.dtype)) {
    fail(op, "dtype = {} is not available; use float32, float16 or bfloat16", name_of(*options.dtype));
  }
  if (options.global_scale) {
    return Dtype::float32;  // whatever dtype says, as in MLX
  }
  if (options.dtype) {
    return *options.dtype;
  }
  return format.scale_encoding == ScaleEncoding::floating ? promote(scales.dtype(), options.biases->dtype()) : Dtype::bfloat16;
}

/// The types that the scale and its product with a code are rounded to, and their sum with the bias.
struct Rounding {
  Dtype product;
  Dtype sum;
};

Rounding rounding_of(const Format& format, const array& scales, const DequantizeOptions& options, Dtype output) {
  if (format.scale_encoding == ScaleEncoding::floating) {
    return {scales.dtype(), promote(scales.dtype(), options.biases->dtype())};
  }
  return {output, output};
}

/// Walks the groups of the four arrays together.
class GroupReader {
 public:
  GroupReader(const QuantizedWeights& weights, const array& w, Rounding rounding)
      : format_(*weights.settings.format),
        group_size_(weights.settings.group_size),
        rounding_(rounding),
        w_(w),
        scales_(*weights.scales),
        biases_(weights.biases != nullptr ? MatrixBatch(*weights.biases) : MatrixBatch()),
        global_scale_(weights.global_scale != nullptr
                          ? MatrixBatch(global_scale_per_matrix(*weights.global_scale, leading_shape(w)))
                          : MatrixBatch()) {}

  [[nodiscard]] std::int64_t matrices() const { return w_.count(); }
  [[nodiscard]] std::int64_t rows() const { return w_.rows(); }

  /// Writes one row of weights, rounded to `output`.
  std::byte* read_row(std::int64_t matrix, std::int64_t row, Dtype output, std::byte* to) const {
    const std::byte* codes = w_.row(matrix, row);
    for (std::int64_t group = 0; group < scales_.cols(); ++group) {
      const float scale = scale_at(matrix, row, group);
      const float bias =
          biases_.empty() ? 0.0F : load_float(biases_.row(matrix, row) + group * biases_.col_stride(), biases_.dtype());
      for (std::int64_t k = group * group_size_; k < (group + 1) * group_size_; ++k) {
        float weight = round_to(rounding_.product, scale * format_.value(load_code(codes, k, format_.bits)));
        if (format_.has_biases) {
          weight = round_to(rounding_.sum, weight + bias);
        }
        store_float(to, output, weight);
        to += size_of(output);
      }
    }
    return to;
  }

 private:
  [[nodiscard]] float scale_at(std::int64_t matrix, std::int64_t row, std::int64_t group) const {
    const std::byte* address = scales_.row(matrix, row) + group * scales_.col_stride();
    const float scale = round_to(rounding_.product, load_scale(address, format_.scale_encoding, scales_.dtype()));
    return global_scale_.empty() ? scale : scale * nvfp4_scale_factor(load_unaligned<float>(global_scale_.matrix(matrix)));
  }

  const Format& format_;
  std::int64_t group_size_;
  Rounding rounding_;
  MatrixBatch w_;
  MatrixBatch scales_;
  MatrixBatch biases_;
  MatrixBatch global_scale_;
};

}  // namespace

array dequantize(const array& w, const array& scales, const DequantizeOptions& options) {
  check_stream(op, options.stream);
  const QuantizedWeights weights = {
      .w = w,
      .scales = &scales,
      .biases = address_of(options.biases),
      .global_scale = address_of(options.global_scale),
      .settings = resolve_settings(op, options.mode, options.bits, options.group_size),
  };
  Shape shape = w.shape();
  const std::int64_t K = check_weights(op, weights, {}).K;
  shape.back() = K;
  const Format& format = *weights.settings.format;
  const Dtype output = output_dtype(format, scales, options);
  checked_product(op, "bytes of the result", checked_count(op, "the result", shape), static_cast<std::int64_t>(size_of(output)));
  array result = array::empty(shape, output);

  const cpu::FloatEnvironment environment;
  const array words = to_contiguous_rows(w);
  const GroupReader reader(weights, words, rounding_of(format, scales, options, output));
  std::byte* to = result.mutable_bytes();
  for (std::int64_t matrix = 0; matrix < reader.matrices(); ++matrix) {
    for (std::int64_t row = 0; row < reader.rows(); ++row) {
      throw_if_interrupted();
      to = reader.read_row(matrix, row, output, to);
    }
  }
  return result;
}

}  // namespace gqmm
