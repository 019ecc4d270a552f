// The kernels for AVX2, FMA and F16C. Only this file is compiled for these extensions, so it exports one function. The linker
// might use any other function of it on older machines. The test targets.EachDefinesOneFunction checks that.
#include "cpu/simd/avx2.hpp"

#include "cpu/kernels/make_table.hpp"
#include "cpu/targets/targets.hpp"

namespace gqmm::cpu {

const KernelTable& avx2_kernels() {
  static constexpr KernelTable table = make_table<Avx2>();
  return table;
}

}  // namespace gqmm::cpu
