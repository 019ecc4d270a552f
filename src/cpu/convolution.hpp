// The depthwise convolution on the CPU.
#pragma once

#include "plan/convolution_problem.hpp"

namespace gqmm::cpu {

/// Computes y. Throws as run of a Problem does (cpu/backend.hpp).
void depthwise_conv1d(const ConvolutionProblem& problem);

}  // namespace gqmm::cpu
