// The kernels on NEON with dot products of u8 by s8, compiled with those flags: nothing else may be visible outside.
#include "cpu/simd/i8mm.hpp"

#include "cpu/kernels/make_table.hpp"
#include "cpu/targets/targets.hpp"

namespace gqmm::cpu {

const KernelTable& i8mm_kernels() {
  static constexpr KernelTable table = make_table<I8mm>();
  return table;
}

}  // namespace gqmm::cpu
