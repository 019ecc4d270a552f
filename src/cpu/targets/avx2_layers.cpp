// The kernels of layers around products for AVX2, FMA and F16C. Only this file and the kernels of this set are
// compiled for these extensions, so it exports one function (see its neighbours).
#include "cpu/simd/avx2.hpp"

#include "cpu/kernels/make_layers.hpp"
#include "cpu/targets/targets.hpp"

namespace gqmm::cpu {

const LayerKernels& avx2_layers() {
  static constexpr LayerKernels kernels = make_layers<Avx2>();
  return kernels;
}

}  // namespace gqmm::cpu
