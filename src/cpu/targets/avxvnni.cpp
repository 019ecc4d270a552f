// The kernels for AVX2, FMA, F16C and AVX-VNNI. Only this file is compiled for these extensions, so it exports one function.
// The linker might use any other function of it on older machines. The test targets.EachDefinesOneFunction checks that.
#include "cpu/simd/avxvnni.hpp"

#include "cpu/kernels/make_table.hpp"
#include "cpu/targets/targets.hpp"

namespace gqmm::cpu {

const KernelTable& avxvnni_kernels() {
  static constexpr KernelTable table = make_table<AvxVnni>();
  return table;
}

}  // namespace gqmm::cpu
