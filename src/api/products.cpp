// The operators that multiply, and their gradients: lower, then run.
#include "api/lower.hpp"
#include "cpu/backend.hpp"
#include "cpu/gradients.hpp"
#include "threads/node_binding.hpp"

#include <utility>

namespace gqmm {

using namespace detail;

namespace {

array run(Lowered lowered) {
  if (lowered.result.size() != 0) {
    cpu::run(lowered.problem);
  }
  return std::move(lowered.result);
}

LoweredGradients run(LoweredGradients lowered) {
  cpu::run(lowered.problem);
  return lowered;
}

}  // namespace

array gather_qmm(const array& x, const QuantizedWeights& weights, const GatherQmmOptions& options) {
  const threads::NodeBinding binding(options.stream);
  return run(lower_gather_qmm(x, weights, options));
}

array gather_qmm(const array& x, const PackedWeights& weights, const GatherQmmOptions& options) {
  const threads::NodeBinding binding(options.stream);
  return run(lower_gather_qmm(x, weights, options));
}

array quantized_matmul(const array& x, const QuantizedWeights& weights, const QuantizedMatmulOptions& options) {
  const threads::NodeBinding binding(options.stream);
  return run(lower_quantized_matmul(x, weights, options));
}

array quantized_matmul(const array& x, const PackedWeights& weights, const QuantizedMatmulOptions& options) {
  const threads::NodeBinding binding(options.stream);
  return run(lower_quantized_matmul(x, weights, options));
}

array gather_mm(const array& a, const array& b, const GatherMmOptions& options) {
  const threads::NodeBinding binding(options.stream);
  return run(lower_gather_mm(a, b, options));
}

QuantizedGradients gather_qmm_vjp(const array& dy, const array& x, const QuantizedWeights& weights,
                                  const GatherQmmVjpOptions& options) {
  const threads::NodeBinding binding(options.stream);
  return run(lower_gather_qmm_vjp(dy, x, weights, options)).quantized;
}

QuantizedGradients gather_qmm_vjp(const array& dy, const array& x, const PackedWeights& weights,
                                  const GatherQmmVjpOptions& options) {
  const threads::NodeBinding binding(options.stream);
  return run(lower_gather_qmm_vjp(dy, x, weights, options)).quantized;
}

QuantizedGradients quantized_matmul_vjp(const array& dy, const array& x, const QuantizedWeights& weights,
                                        const QuantizedMatmulVjpOptions& options) {
  const threads::NodeBinding binding(options.stream);
  return run(lower_quantized_matmul_vjp(dy, x, weights, options)).quantized;
}

QuantizedGradients quantized_matmul_vjp(const array& dy, const array& x, const PackedWeights& weights,
                                        const QuantizedMatmulVjpOptions& options) {
  const threads::NodeBinding binding(options.stream);
  return run(lower_quantized_matmul_vjp(dy, x, weights, options)).quantized;
}

DenseGradients gather_mm_vjp(const array& dy, const array& a, const array& b, const GatherMmVjpOptions& options) {
  const threads::NodeBinding binding(options.stream);
  return run(lower_gather_mm_vjp(dy, a, b, options)).dense;
}

array grouped_qmm(const array& x, const QuantizedWeights& weights, const array& offsets, const GroupedQmmOptions& options) {
  const threads::NodeBinding binding(options.stream);
  return run(lower_grouped_qmm(x, weights, offsets, options));
}

array grouped_qmm(const array& x, const PackedWeights& weights, const array& offsets, const GroupedQmmOptions& options) {
  const threads::NodeBinding binding(options.stream);
  return run(lower_grouped_qmm(x, weights, offsets, options));
}

array grouped_mm(const array& x, const array& b, const array& offsets, const GroupedMmOptions& options) {
  const threads::NodeBinding binding(options.stream);
  return run(lower_grouped_mm(x, b, offsets, options));
}

QuantizedGradients grouped_qmm_vjp(const array& dy, const array& x, const QuantizedWeights& weights, const array& offsets,
                                   const GroupedQmmVjpOptions& options) {
  const threads::NodeBinding binding(options.stream);
  return run(lower_grouped_qmm_vjp(dy, x, weights, offsets, options)).quantized;
}

QuantizedGradients grouped_qmm_vjp(const array& dy, const array& x, const PackedWeights& weights, const array& offsets,
                                   const GroupedQmmVjpOptions& options) {
  const threads::NodeBinding binding(options.stream);
  return run(lower_grouped_qmm_vjp(dy, x, weights, offsets, options)).quantized;
}

GroupedMmGradients grouped_mm_vjp(const array& dy, const array& x, const array& b, const array& offsets,
                                  const GroupedMmVjpOptions& options) {
  const threads::NodeBinding binding(options.stream);
  DenseGradients gradients = run(lower_grouped_mm_vjp(dy, x, b, offsets, options)).dense;
  return {std::move(gradients.a), std::move(gradients.b)};
}

}  // namespace gqmm
