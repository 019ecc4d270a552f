// This file chooses the instruction set that runs.
#pragma once

#include "cpu/kernels/kernel_table.hpp"
#include "cpu/kernels/layer_table.hpp"

namespace gqmm::cpu {

/// The kernels of the active instruction set (gqmm::active_instruction_set). Throws std::invalid_argument if GQMM_ISA names an
/// instruction set that is unknown or that this machine lacks.
const KernelTable& active_kernels();

/// Its kernels of the layers between products. Throws likewise.
const LayerKernels& active_layers();

}  // namespace gqmm::cpu
