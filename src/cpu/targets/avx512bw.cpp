// The kernels for AVX-512 without VNNI. Only this file is compiled for these extensions, so it exports one function. The linker
// might use any other function of it on older machines. The test targets.EachDefinesOneFunction checks that.
#include "cpu/simd/avx512bw.hpp"

#include "cpu/kernels/make_table.hpp"
#include "cpu/targets/targets.hpp"

namespace gqmm::cpu {

const KernelTable& avx512bw_kernels() {
  static constexpr KernelTable table = make_table<Avx512Bw>();
  return table;
}

}  // namespace gqmm::cpu
