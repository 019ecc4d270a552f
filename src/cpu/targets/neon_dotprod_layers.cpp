// The kernels of attention and of other layers for NEON. This file is compiled for these extensions, so it exports one function,
// as its neighbours do. The test targets.EachDefinesOneFunction checks that.
#include "cpu/simd/neon_dotprod.hpp"

#include "cpu/kernels/make_layers.hpp"
#include "cpu/targets/targets.hpp"

namespace gqmm::cpu {

const LayerKernels& neon_dotprod_layers() {
  static constexpr LayerKernels kernels = make_layers<NeonDotprod>();
  return kernels;
}

}  // namespace gqmm::cpu
