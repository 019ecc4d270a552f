// The kernels of attention and of other layers for AVX2, FMA and F16C. This file is compiled for these extensions, so it exports
// one function, as its neighbours do. The test targets.EachDefinesOneFunction checks that.
#include "cpu/simd/avx2.hpp"

#include "cpu/kernels/make_layers.hpp"
#include "cpu/targets/targets.hpp"

namespace gqmm::cpu {

const LayerKernels& avx2_layers() {
  static constexpr LayerKernels kernels = make_layers<Avx2>();
  return kernels;
}

}  // namespace gqmm::cpu
