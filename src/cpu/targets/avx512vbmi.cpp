// The kernels on AVX-512 VNNI that VBMI makes better. Compiled with those flags: nothing but this one function may be visible
// outside.
#include "cpu/simd/avx512vbmi.hpp"

#include "cpu/kernels/make_table.hpp"
#include "cpu/targets/targets.hpp"

namespace gqmm::cpu {

const KernelTable& avx512vbmi_kernels() {
  static const KernelTable table = with_picked_bits<Avx512Vbmi>(avx512_kernels(), AllFormats{});
  return table;
}

}  // namespace gqmm::cpu
