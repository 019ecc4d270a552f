// The kernels of attention for AVX2, FMA and F16C. Only this file and the kernels of this set are
// compiled for these extensions, so it exports one function (see its neighbours).
#include "cpu/simd/avx2.hpp"

#include "cpu/kernels/make_attention.hpp"
#include "cpu/targets/targets.hpp"

namespace gqmm::cpu {

const AttentionKernels& avx2_attention() {
  static constexpr AttentionKernels kernels = make_attention<Avx2>();
  return kernels;
}

}  // namespace gqmm::cpu
