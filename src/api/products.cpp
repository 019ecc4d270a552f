// The operators that multiply: lower, then run.
#include "api/lower.hpp"
#include "cpu/backend.hpp"

#include <utility>

namespace gqmm {
namespace {

array run(Lowered lowered) {
  if (lowered.result.size() != 0) {
    cpu::run(lowered.problem);
  }
  return std::move(lowered.result);
}

}  // namespace

array gather_qmm(const array& x, const array& w, const GatherQmmOptions& options) { return run(lower_gather_qmm(x, w, options)); }

array gather_qmm(const array& x, const PackedWeights& w, const GatherQmmOptions& options) {
  return run(lower_gather_qmm(x, w, options));
}

array quantized_matmul(const array& x, const array& w, const GatherQmmOptions& options) {
  return run(lower_quantized_matmul(x, w, options));
}

array quantized_matmul(const array& x, const PackedWeights& w, const GatherQmmOptions& options) {
  return run(lower_quantized_matmul(x, w, options));
}

array gather_mm(const array& a, const array& b, const GatherMmOptions& options) { return run(lower_gather_mm(a, b, options)); }

}  // namespace gqmm
