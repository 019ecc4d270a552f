#include "cpu/ssm.hpp"

#include "cpu/dispatch.hpp"
#include "cpu/load_floats.hpp"
#include "cpu/recurrence.hpp"

#include <algorithm>

namespace gqmm::cpu {
namespace {

float load_one(const KernelTable& kernels, const MatrixBatch& vector, std::int64_t index) {
  float value = 0;
  load_floats(kernels, vector, index, 1, &value);
  return value;
}

}  // namespace

void ssm_update(const SsmProblem& problem) {
  static_assert(tokens_of_block == lanes, "the time steps of a block are one vector");
  const auto time_steps = active_layers().time_steps;
  run_recurrence(
      problem, {.kernel = active_layers().ssm_step,
                .g_stride = 1,
                .load_gates =
                    [&](const KernelTable& kernels, const TokenBlock& block, float* g, float* beta) {
                      std::fill_n(beta, lanes, 0.0F);
                      for (std::int64_t i = 0; i < block.count; ++i) {
                        load_floats(kernels, problem.dt, block[i] * problem.v_heads + block.head, 1, beta + i);
                      }
                      time_steps({.time_step = beta,
                                  .decay = g,
                                  .A_log = load_one(kernels, problem.A_log, block.head),
                                  .dt_bias = load_one(kernels, problem.dt_bias, block.head),
                                  .smallest = problem.smallest_step,
                                  .largest = problem.largest_step});
                    },
                .load_skip = [&](const KernelTable& kernels, std::int64_t head) { return load_one(kernels, problem.D, head); }});
}

}  // namespace gqmm::cpu
