// quantize: quantizes the last dimension of a float array in groups.
#include "api/check.hpp"
#include "api/weights.hpp"
#include "threads/node_binding.hpp"
#include "weights/quantize_matrices.hpp"

#include <gqmm/ops.hpp>

#include <cmath>
#include <cstring>

namespace gqmm {

using namespace detail;

namespace {

constexpr std::string_view op = "quantize";

void check_input(const array& w, const QuantizationSettings& settings) {
  check_compute_float(op, "w", w);
  if (w.rank() < 2) {
    fail(op, "w has shape {}; it needs at least two dimensions: reshape it to (1, K) for a single row", to_string(w.shape()));
  }
  if (w.dim(-1) == 0) {
    fail(op, "K = 0: w has shape {}; K must be positive", to_string(w.shape()));
  }
  check_whole_groups(op, "w", w.dim(-1), settings);
}

/// The factor from a scale to its stored form. It is infinite if the caller gives zero as the largest magnitude of w.
float scale_encoding_factor(const array* global_scale) {
  if (global_scale == nullptr) {
    return 1.0F;
  }
  const auto largest = load_unaligned<float>(global_scale->bytes());
  if (!(largest >= 0.0F) || std::isinf(largest)) {
    fail(op, "global_scale = {}; it must be the largest magnitude of w: finite, and positive unless w is all zeros", largest);
  }
  return (largest_value(e4m3) * largest_value(e2m1)) / largest;
}

/// Makes the result for w; its arrays have no values yet.
QuantizedWeights empty_result(const array& w, const QuantizationSettings& settings) {
  const auto& [format, group_size] = settings;
  const std::int64_t groups = w.dim(-1) / group_size;
  Shape shape = w.shape();
  shape.back() = groups * (group_size * format->bits / 32);
  QuantizedWeights result = {
      .w = array::empty(shape, Dtype::uint32), .mode = format->mode, .bits = format->bits, .group_size = group_size};
  shape.back() = groups;
  result.scales = array::empty(shape, format->scale_encoding == ScaleEncoding::floating ? w.dtype() : Dtype::uint8);
  if (format->has_biases) {
    result.biases = array::empty(shape, w.dtype());
  }
  return result;
}

/// Copies the value, because the caller may free its memory before the result is freed.
array copy_of_one_value(const array& value) {
  array copy = array::empty(value.shape(), value.dtype());
  std::memcpy(copy.mutable_bytes(), value.bytes(), copy.nbytes());
  return copy;
}

}  // namespace

QuantizedWeights quantize(const array& w, const QuantizeOptions& options) {
  const threads::NodeBinding binding(options.stream);
  check_stream(op, options.stream);
  const QuantizationSettings settings = resolve_settings(op, options.mode, options.bits, options.group_size);
  const Format& format = *settings.format;
  check_input(w, settings);
  check_global_scale(op, options.mode, address_of(options.global_scale), nullptr);
  QuantizedWeights result = empty_result(w, settings);
  if (options.global_scale) {
    result.global_scale = copy_of_one_value(*options.global_scale);
  }

  const float encode = scale_encoding_factor(address_of(options.global_scale));
  if (const auto unfit = quantize_matrices(w, settings, encode, result)) {
    if (!std::isfinite(unfit->value)) {
      fail(op, "w{} = {}; mode \"{}\" takes finite values only", position_text(w.shape(), unfit->position), unfit->value,
           name_of(format.mode));
    }
    fail(op, "global_scale = {} but w is not all zeros; it must be the largest magnitude of w",
         load_unaligned<float>(options.global_scale->bytes()));
  }
  return result;
}

}  // namespace gqmm
