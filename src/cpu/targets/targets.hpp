// The kernel tables of the instruction sets. docs/dev/adding.md lists what a new one needs.
#pragma once

namespace gqmm::cpu {

// These are declared alone, so that a change to the layers' table does not compile the kernels of products again.
struct KernelTable;
struct LayerKernels;

const KernelTable& scalar_kernels();
const KernelTable& avx2_kernels();
const KernelTable& avxvnni_kernels();
const KernelTable& avx512bw_kernels();
const KernelTable& avx512vnni_kernels();
const KernelTable& avx512vbmi_kernels();
const KernelTable& neon_dotprod_kernels();
const KernelTable& neon_i8mm_kernels();

// The other layers need neither dot products nor VBMI, so sets that differ in these share their kernels.
const LayerKernels& scalar_layers();
const LayerKernels& avx2_layers();
const LayerKernels& avx512bw_layers();
const LayerKernels& neon_dotprod_layers();

}  // namespace gqmm::cpu
