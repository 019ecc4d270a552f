// The kernels for NEON with dot products. Only this file is compiled for these extensions, so it exports one function. The
// linker might use any other function of it on older machines. The test targets.EachDefinesOneFunction checks that.
#include "cpu/simd/neon_dotprod.hpp"

#include "cpu/kernels/make_table.hpp"
#include "cpu/targets/targets.hpp"

namespace gqmm::cpu {

const KernelTable& neon_dotprod_kernels() {
  static constexpr KernelTable table = make_table<NeonDotprod>();
  return table;
}

}  // namespace gqmm::cpu
