#include "cpu/combine.hpp"

#include "cpu/call_context.hpp"
#include "cpu/float_environment.hpp"
#include "cpu/load_floats.hpp"
#include "cpu/scratch.hpp"

#include <cstdint>

namespace gqmm::cpu {
namespace {

struct SlotScratch {
  Scratch floats;
};

}  // namespace

void SumOfSlots::add_up(const Rows& rows, std::int64_t token, std::int64_t first, std::int64_t n) const {
  alignas(line_bytes) float sums[item_outputs];
  kernels_.combine({.slots = rows.first,
                    .slot_stride = rows.slot_stride,
                    .dtype = rows.dtype,
                    .weights = weights_ + token * k_,
                    .k = k_,
                    .n = n,
                    .out = sums});
  kernels_.round(sums, n, dtype_, y_ + (token * H_ + first) * static_cast<std::int64_t>(size_of(dtype_)));
}

void combine(const CombineProblem& problem) {
  const MatrixBatch& slots = problem.slots;
  const std::int64_t tokens = slots.count();
  const std::int64_t k = slots.rows();
  const std::int64_t H = slots.cols();
  const auto itemsize = static_cast<std::int64_t>(size_of(slots.dtype()));
  CallContext call(static_cast<double>(tokens) * static_cast<double>(H) * static_cast<double>(k + 1), problem.threads);
  const KernelTable& kernels = call.kernels();
  float* const weights = call.take<float>(tokens, k);
  {
    const FloatEnvironment environment;  // no phase runs yet, and a conversion may meet subnormals
    load_floats(kernels, problem.weights, 0, tokens * k, weights);
  }

  const SumOfSlots sum(kernels, k, H, weights, slots.dtype(), problem.y);
  call.use_at_most(sum.items(tokens));
  call.add_phase(
      sum.items(tokens), [](std::int64_t) { return 1; },
      [&](std::int64_t item, std::int64_t) {
        const ThreadCached<SlotScratch> scratch;
        sum.run(item, [&](std::int64_t token, std::int64_t first, std::int64_t n) -> SumOfSlots::Rows {
          if (slots.col_stride() == itemsize) {
            return {slots.matrix(token) + first * itemsize, slots.row_stride(), slots.dtype()};
          }
          auto* const floats = scratch->floats.take<float>(k, n);
          for (std::int64_t j = 0; j < k; ++j) {
            load_floats(kernels, slots, (token * k + j) * H + first, n, floats + j * n);
          }
          return {reinterpret_cast<const std::byte*>(floats), n * static_cast<std::int64_t>(sizeof(float)), Dtype::float32};
        });
      });
  call.run();
}

}  // namespace gqmm::cpu
