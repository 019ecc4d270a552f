// The kernels of attention for AVX-512. Only this file and the kernels of this set are
// compiled for these extensions, so it exports one function (see its neighbours).
#include "cpu/simd/avx512bw.hpp"

#include "cpu/kernels/make_attention.hpp"
#include "cpu/targets/targets.hpp"

namespace gqmm::cpu {

const AttentionKernels& avx512bw_attention() {
  static constexpr AttentionKernels kernels = make_attention<Avx512Bw>();
  return kernels;
}

}  // namespace gqmm::cpu
