// rms_norm: the checks of its arguments.
#include "cpu/rms_norm.hpp"

#include "api/check.hpp"
#include "api/kept_memory.hpp"
#include "api/loaded_values.hpp"
#include "api/output.hpp"

#include <gqmm/infer.hpp>
#include <gqmm/norm.hpp>

#include <cmath>

namespace gqmm {

using namespace detail;

namespace {

constexpr std::string_view norm_op = "rms_norm";

}  // namespace

ResultType infer_rms_norm(const array& x, const std::optional<array>& weight, float eps, const NormOptions& options) {
  check_compute_float(norm_op, "x", x);
  if (x.rank() == 0) {
    fail(norm_op, "x is a scalar; pass (…, D), rows");
  }
  if (weight) {
    check_compute_float(norm_op, "weight", *weight);
    if (weight->shape() != Shape{x.dim(-1)}) {
      fail(norm_op, "x has shape {} but weight has shape {}; it must be ({},), a factor for each element of a row",
           to_string(x.shape()), to_string(weight->shape()), x.dim(-1));
    }
  }
  if (!(eps >= 0) || !std::isfinite(eps)) {
    fail(norm_op, "eps = {} is negative or not finite; pass a small number such as 1e-6", eps);
  }
  check_stream(norm_op, options.stream);
  return {x.shape(), weight ? promote(x.dtype(), weight->dtype()) : x.dtype()};
}

array rms_norm(const array& x, const std::optional<array>& weight, float eps, const NormOptions& options) {
  const ResultType type = infer_rms_norm(x, weight, eps, options);
  const NamedOperand operands[] = {{"x", &x}, {"weight", weight ? &*weight : nullptr}};
  array result = make_result(norm_op, type.shape, type.dtype, options.out, operands);
  if (result.size() == 0) {
    return result;
  }
  KeptMemory kept;
  cpu::rms_norm({.x = kept.contiguous_rows(x),
                 .weight = weight ? load_vector(*weight) : std::vector<float>(),
                 .eps = eps,
                 .y = result.mutable_bytes(),
                 .y_dtype = type.dtype,
                 .threads = options.stream.threads});
  return result;
}

}  // namespace gqmm
