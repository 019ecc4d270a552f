// The kernels of attention for NEON. Only this file and the kernels of this set are
// compiled for these extensions, so it exports one function (see its neighbours).
#include "cpu/simd/neon_dotprod.hpp"

#include "cpu/kernels/make_attention.hpp"
#include "cpu/targets/targets.hpp"

namespace gqmm::cpu {

const AttentionKernels& neon_dotprod_attention() {
  static constexpr AttentionKernels kernels = make_attention<NeonDotprod>();
  return kernels;
}

}  // namespace gqmm::cpu
