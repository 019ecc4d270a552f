// The kernels on AVX-512 VNNI that VBMI makes better. Compiled with those flags: nothing but this one function may be visible
// outside.
#include "cpu/simd/avx512vbmi.hpp"

#include "cpu/kernels/make_table.hpp"
#include "cpu/targets/targets.hpp"
#include "threads/first_use.hpp"

namespace gqmm::cpu {

const KernelTable& avx512vbmi_kernels() {
  using Table = PickedTable<Avx512Vbmi, AllFormats>;  // a type of this file alone, and so is FirstUse of it
  constinit static threads::FirstUse<const Table> made;
  return made.get([] { return Table(avx512_kernels()); }).table;
}

}  // namespace gqmm::cpu
