// The kernels of attention and of other layers for AVX-512. This file is compiled for these extensions, so it exports one
// function, as its neighbours do. The test targets.EachDefinesOneFunction checks that.
#include "cpu/simd/avx512bw.hpp"

#include "cpu/kernels/make_layers.hpp"
#include "cpu/targets/targets.hpp"

namespace gqmm::cpu {

const LayerKernels& avx512bw_layers() {
  static constexpr LayerKernels kernels = make_layers<Avx512Bw>();
  return kernels;
}

}  // namespace gqmm::cpu
