// The kernels on AVX-512 without VNNI. Compiled with those flags: nothing but this one function may be visible outside.
#include "cpu/simd/avx512bw.hpp"

#include "cpu/kernels/make_table.hpp"
#include "cpu/targets/targets.hpp"

namespace gqmm::cpu {

const KernelTable& avx512bw_kernels() {
  static constexpr KernelTable table = make_table<Avx512Bw>();
  return table;
}

}  // namespace gqmm::cpu
