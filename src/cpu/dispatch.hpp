// This file chooses the instruction set that runs.
#pragma once

#include "cpu/kernels/attention_table.hpp"
#include "cpu/kernels/kernel_table.hpp"

namespace gqmm::cpu {

/// The kernels of the active instruction set (gqmm::active_instruction_set). Throws std::invalid_argument if GQMM_ISA names an
/// instruction set that is unknown or that this machine lacks.
const KernelTable& active_kernels();

/// Its kernels of attention. Throws likewise.
const AttentionKernels& active_attention();

}  // namespace gqmm::cpu
