// The kernels for NEON with dot products of u8 by s8. Only this file is compiled for these extensions, so it exports one
// function. The linker might use any other function of it on older machines. The test targets.EachDefinesOneFunction checks
// that.
#include "cpu/simd/neon_i8mm.hpp"

#include "cpu/kernels/make_table.hpp"
#include "cpu/targets/targets.hpp"

namespace gqmm::cpu {

const KernelTable& neon_i8mm_kernels() {
  static constexpr KernelTable table = make_table<NeonI8mm>();
  return table;
}

}  // namespace gqmm::cpu
