// The kernels on AVX2 + FMA + F16C + AVX-VNNI. Compiled with those flags: nothing but this one function may be visible outside.
#include "cpu/simd/avxvnni.hpp"

#include "cpu/kernels/make_table.hpp"
#include "cpu/targets/targets.hpp"

namespace gqmm::cpu {

const KernelTable& avxvnni_kernels() {
  static constexpr KernelTable table = make_table<AvxVnni>();
  return table;
}

}  // namespace gqmm::cpu
