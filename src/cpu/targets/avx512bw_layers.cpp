// The kernels of layers around products for AVX-512. Only this file and the kernels of this set are
// compiled for these extensions, so it exports one function (see its neighbours).
#include "cpu/simd/avx512bw.hpp"

#include "cpu/kernels/make_layers.hpp"
#include "cpu/targets/targets.hpp"

namespace gqmm::cpu {

const LayerKernels& avx512bw_layers() {
  static constexpr LayerKernels kernels = make_layers<Avx512Bw>();
  return kernels;
}

}  // namespace gqmm::cpu
