// The kernels for AVX-512 with VNNI that VBMI improves. Only this file is compiled for these extensions, so it exports one
// function. The linker might use any other function of it on older machines. The test targets.EachDefinesOneFunction checks
// that.
#include "cpu/simd/avx512vbmi.hpp"

#include "cpu/kernels/make_table.hpp"
#include "cpu/targets/targets.hpp"
#include "threads/first_use.hpp"

namespace gqmm::cpu {

const KernelTable& avx512vbmi_kernels() {
  using Table = PickedTable<Avx512Vbmi, AllFormats>;  // this type, and so FirstUse of it, exists in this file only
  constinit static threads::FirstUse<const Table> made;
  return made.get([] { return Table(avx512vnni_kernels()); }).table;
}

}  // namespace gqmm::cpu
