#include "cpu/backend.hpp"

#include "cpu/call_context.hpp"
#include "cpu/dispatch.hpp"
#include "cpu/gathered_product.hpp"
#include "cpu/processor.hpp"

#include <gqmm/system.hpp>

#include <algorithm>
#include <cstring>
#include <vector>

namespace gqmm::cpu {
namespace {

constexpr std::int64_t nibble_panel_bytes_per_k = 8;
constexpr std::int64_t byte_panel_bytes_per_k = 16;

}  // namespace

double multiply_adds(const Problem& problem) {
  return static_cast<double>(problem.rhs.size()) * static_cast<double>(problem.M) * static_cast<double>(problem.N) *
         static_cast<double>(problem.K);
}

Routing routing_of(const Problem& problem) { return route(problem.rhs, experts_of(problem.weights), problem.sorted); }

KernelLimits limits_for(const PlannedProduct& product, const KernelTable& kernels) {
  const QuantizedMatrices* matrices = quantized(product.weights);
  const bool nibbles = matrices != nullptr && kernels.formats[index_of(matrices->format())].panel == PanelKind::nibbles;
  return {.isa = active_instruction_set(),
          .gemv_rows = kernels.gemv_rows,
          .gemm_tile = kernels.gemm_tile[product.slices - 1],
          .float_tile = kernels.float_tile,
          .float_gemv_rows = kernels.float_gemv_rows,
          .float_gemv_crossover = kernels.float_gemv_crossover,
          .panel_bytes_per_k = nibbles ? nibble_panel_bytes_per_k : byte_panel_bytes_per_k,
          // The panel should stay in L1 together with the activations and sums of a tile. A panel of nibbles gets 12 of 32 KiB;
          // 24 of 48 KiB changed nothing. A panel of bytes gets twice as much, so that it holds as many k. With half the k in a
          // call of the tile, the call costs 1 to 6 % more, most of all where groups are small.
          .panel_bytes = processor().l1_bytes * (nibbles ? 3 : 6) / 8};
}

Plan plan_for(const Problem& problem) {
  return make_plan(problem, limits_for(problem, active_kernels()), routing_of(problem),
                   wanted_threads(multiply_adds(problem), problem.threads).threads);
}

void run(const Problem& problem) {
  if (problem.rhs.empty() || problem.M == 0 || problem.N == 0) {
    return;
  }
  CallContext call(multiply_adds(problem), problem.threads);
  GatheredProduct product(call, problem);
  const std::vector<std::int64_t>& missing = product.routing().missing;
  const auto missing_count = static_cast<std::int64_t>(missing.size());
  call.use_at_most(std::max(product.items_of_a_phase(), missing_count));
  product.add_phases(call, RoundIntoResult(call.kernels(), problem.y, problem.y_dtype, problem.N));
  if (missing_count != 0) {
    const std::int64_t bytes = problem.M * problem.N * static_cast<std::int64_t>(size_of(problem.y_dtype));
    call.add_phase(
        missing_count, [](std::int64_t) { return 1; },
        [&, bytes](std::int64_t i, std::int64_t) {
          std::memset(problem.y + missing[static_cast<std::size_t>(i)] * bytes, 0, static_cast<std::size_t>(bytes));
        });
  }
  call.run();
}

}  // namespace gqmm::cpu
