// The instruction sets that the library is built with. A new one is a vocabulary (simd/), a translation unit beside this file, a
// declaration here and a line in dispatch.cpp.
#pragma once

#include "cpu/kernels/kernel_table.hpp"

namespace gqmm::cpu {

const KernelTable& scalar_kernels();
const KernelTable& avx2_kernels();
const KernelTable& avxvnni_kernels();
const KernelTable& avx512bw_kernels();
const KernelTable& avx512_kernels();
const KernelTable& avx512vbmi_kernels();
const KernelTable& neon_kernels();
const KernelTable& i8mm_kernels();

}  // namespace gqmm::cpu
