// The kernel tables of the instruction sets. docs/dev/adding.md lists what a new one needs.
#pragma once

#include "cpu/kernels/attention_table.hpp"
#include "cpu/kernels/kernel_table.hpp"

namespace gqmm::cpu {

const KernelTable& scalar_kernels();
const KernelTable& avx2_kernels();
const KernelTable& avxvnni_kernels();
const KernelTable& avx512bw_kernels();
const KernelTable& avx512vnni_kernels();
const KernelTable& avx512vbmi_kernels();
const KernelTable& neon_dotprod_kernels();
const KernelTable& neon_i8mm_kernels();

// Attention needs neither dot products nor VBMI, so sets that differ in these share its kernels.
const AttentionKernels& scalar_attention();
const AttentionKernels& avx2_attention();
const AttentionKernels& avx512bw_attention();
const AttentionKernels& neon_dotprod_attention();

}  // namespace gqmm::cpu
