// The kernels for AVX-512 with VNNI. Only this file is compiled for these extensions, so it exports one function. The linker
// might use any other function of it on older machines. The test targets.EachDefinesOneFunction checks that.
#include "cpu/simd/avx512vnni.hpp"

#include "cpu/kernels/make_table.hpp"
#include "cpu/targets/targets.hpp"

namespace gqmm::cpu {

const KernelTable& avx512vnni_kernels() {
  static constexpr KernelTable table = make_table<Avx512Vnni>();
  return table;
}

}  // namespace gqmm::cpu
