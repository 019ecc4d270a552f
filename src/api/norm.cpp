// rms_norm and layer_norm: the checks of their arguments.
#include "cpu/norms.hpp"

#include "api/check.hpp"
#include "api/kept_memory.hpp"
#include "api/loaded_values.hpp"
#include "api/output.hpp"
#include "threads/node_binding.hpp"

#include <gqmm/infer.hpp>
#include <gqmm/norm.hpp>

#include <cmath>

namespace gqmm {

using namespace detail;

namespace {

constexpr std::string_view rms_norm_op = "rms_norm";
constexpr std::string_view layer_norm_op = "layer_norm";

void check_rows(std::string_view op, const array& x, float eps, const NormOptions& options) {
  check_compute_float(op, "x", x);
  if (x.rank() == 0) {
    fail(op, "x is a scalar; pass (…, D), rows");
  }
  if (!(eps >= 0) || !std::isfinite(eps)) {
    fail(op, "eps = {} is negative or not finite; pass a small number such as 1e-6", eps);
  }
  check_stream(op, options.stream);
}

/// Checks what has a number for each element of a row. `what` says what the number is.
void check_vector(std::string_view op, const array& x, std::string_view name, const array& vector, std::string_view what) {
  check_compute_float(op, name, vector);
  if (vector.shape() != Shape{x.dim(-1)}) {
    fail(op, "x has shape {} but {} has shape {}; it must be ({},), {} for each element of a row", to_string(x.shape()), name,
         to_string(vector.shape()), x.dim(-1), what);
  }
}

Dtype promote(Dtype dtype, const std::optional<array>& vector) {
  return vector ? detail::promote(dtype, vector->dtype()) : dtype;
}

std::vector<float> load_optional_vector(const std::optional<array>& vector) {
  return vector ? load_vector(*vector) : std::vector<float>();
}

/// Runs `norm` of the backend.
array run(std::string_view op, const ResultType& type, const array& x, const std::optional<array>& weight,
          const std::optional<array>& bias, float eps, const NormOptions& options, void (*norm)(const cpu::NormProblem&)) {
  const threads::NodeBinding binding(options.stream);
  const NamedOperand operands[] = {{"x", &x}, {"weight", weight ? &*weight : nullptr}, {"bias", bias ? &*bias : nullptr}};
  array result = make_result(op, type.shape, type.dtype, options.out, operands);
  if (result.size() == 0) {
    return result;
  }
  KeptMemory kept;
  norm({.x = kept.contiguous_rows(x),
        .weight = load_optional_vector(weight),
        .bias = load_optional_vector(bias),
        .eps = eps,
        .y = result.mutable_bytes(),
        .y_dtype = type.dtype,
        .threads = options.stream.threads});
  return result;
}

}  // namespace

ResultType infer_rms_norm(const array& x, const std::optional<array>& weight, float eps, const NormOptions& options) {
  check_rows(rms_norm_op, x, eps, options);
  if (weight) {
    check_vector(rms_norm_op, x, "weight", *weight, "a factor");
  }
  return {x.shape(), promote(x.dtype(), weight)};
}

array rms_norm(const array& x, const std::optional<array>& weight, float eps, const NormOptions& options) {
  const ResultType type = infer_rms_norm(x, weight, eps, options);
  return run(rms_norm_op, type, x, weight, std::nullopt, eps, options, cpu::rms_norm);
}

ResultType infer_layer_norm(const array& x, const std::optional<array>& weight, const std::optional<array>& bias, float eps,
                            const NormOptions& options) {
  check_rows(layer_norm_op, x, eps, options);
  if (weight) {
    check_vector(layer_norm_op, x, "weight", *weight, "a factor");
  }
  if (bias) {
    check_vector(layer_norm_op, x, "bias", *bias, "an addend");
  }
  return {x.shape(), promote(promote(x.dtype(), weight), bias)};
}

array layer_norm(const array& x, const std::optional<array>& weight, const std::optional<array>& bias, float eps,
                 const NormOptions& options) {
  const ResultType type = infer_layer_norm(x, weight, bias, eps, options);
  return run(layer_norm_op, type, x, weight, bias, eps, options, cpu::layer_norm);
}

}  // namespace gqmm
