// The kernels of attention and of other layers for any CPU.
#include "cpu/simd/scalar.hpp"

#include "cpu/kernels/make_layers.hpp"
#include "cpu/targets/targets.hpp"

namespace gqmm::cpu {

const LayerKernels& scalar_layers() {
  static constexpr LayerKernels kernels = make_layers<Scalar>();
  return kernels;
}

}  // namespace gqmm::cpu
