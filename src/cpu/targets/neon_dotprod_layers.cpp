// The kernels of layers around products for NEON. Only this file and the kernels of this set are
// compiled for these extensions, so it exports one function (see its neighbours).
#include "cpu/simd/neon_dotprod.hpp"

#include "cpu/kernels/make_layers.hpp"
#include "cpu/targets/targets.hpp"

namespace gqmm::cpu {

const LayerKernels& neon_dotprod_layers() {
  static constexpr LayerKernels kernels = make_layers<NeonDotprod>();
  return kernels;
}

}  // namespace gqmm::cpu
