// The kernels on AVX2 + FMA + F16C. Compiled with those flags: nothing but this one function may be visible outside.
#include "cpu/simd/avx2.hpp"

#include "cpu/kernels/make_table.hpp"
#include "cpu/targets/targets.hpp"

namespace gqmm::cpu {

const KernelTable& avx2_kernels() {
  static constexpr KernelTable table = make_table<Avx2>();
  return table;
}

}  // namespace gqmm::cpu
