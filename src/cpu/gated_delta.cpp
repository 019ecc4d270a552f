#include "cpu/gated_delta.hpp"

#include "cpu/dispatch.hpp"
#include "cpu/load_floats.hpp"
#include "cpu/recurrence.hpp"

#include <algorithm>

namespace gqmm::cpu {
namespace {

/// The factors of decay of a head at a token, one for each element of k.
void load_decay(const KernelTable& kernels, const GatedDeltaProblem& p, std::int64_t v_row, float* g) {
  if (p.g.cols() == p.Dk) {
    return load_padded_row(kernels, p.g, v_row * p.Dk, p.Dk, g);
  }
  load_floats(kernels, p.g, v_row, 1, g);
  std::fill(g + 1, g + p.Dk, g[0]);
  std::fill(g + p.Dk, g + whole_vectors(p.Dk), 0.0F);
}

}  // namespace

void gated_delta_update(const GatedDeltaProblem& problem) {
  const std::int64_t g_stride = whole_vectors(problem.Dk);
  run_recurrence(problem, {.kernel = active_layers().delta_rule,
                           .g_stride = g_stride,
                           .load_gates = [&](const KernelTable& kernels, const TokenBlock& block, float* g, float* beta) {
                             for (std::int64_t i = 0; i < block.count; ++i) {
                               const std::int64_t v_row = block[i] * problem.v_heads + block.head;
                               load_decay(kernels, problem, v_row, g + i * g_stride);
                               load_floats(kernels, problem.beta, v_row, 1, beta + i);
                             }
                           }});
}

}  // namespace gqmm::cpu
