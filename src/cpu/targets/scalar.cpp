// The kernels in plain C++. This file is compiled for the baseline of the target.
#include "cpu/simd/scalar.hpp"

#include "cpu/kernels/make_table.hpp"
#include "cpu/targets/targets.hpp"

namespace gqmm::cpu {

const KernelTable& scalar_kernels() {
  static constexpr KernelTable table = make_table<Scalar>();
  return table;
}

}  // namespace gqmm::cpu
