// The kernels on NEON with dot products. Compiled with those flags: nothing but this one function may be visible outside.
#include "cpu/simd/neon.hpp"

#include "cpu/kernels/make_table.hpp"
#include "cpu/targets/targets.hpp"

namespace gqmm::cpu {

const KernelTable& neon_kernels() {
  static constexpr KernelTable table = make_table<Neon>();
  return table;
}

}  // namespace gqmm::cpu
