// The kernels of attention for any CPU.
#include "cpu/simd/scalar.hpp"

#include "cpu/kernels/make_attention.hpp"
#include "cpu/targets/targets.hpp"

namespace gqmm::cpu {

const AttentionKernels& scalar_attention() {
  static constexpr AttentionKernels kernels = make_attention<Scalar>();
  return kernels;
}

}  // namespace gqmm::cpu
