// The layer as phases of one call:
//
//     x · router weight    only if the router's weights multiply x
//     rows of x            prepared for the products, and slots without an expert set to zero
//     h                    gate and up of all experts that are hit, and of the shared ones; their activation
//     rows of h            prepared for the last product
//     slots                down, rounded to the type of the result
//     y                    the weighted sum of each token's slots; missing without weights
//
// The slots of a token are its k routed experts, then the shared ones if there are any.
#include "cpu/moe_ffn.hpp"

#include "cpu/call_context.hpp"
#include "cpu/combine.hpp"
#include "cpu/feed_forward.hpp"
#include "cpu/float_environment.hpp"
#include "cpu/joint_phase.hpp"
#include "cpu/load_floats.hpp"
#include "plan/routing.hpp"

#include <algorithm>
#include <cstring>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace gqmm::cpu {
namespace {

double multiply_adds(const FeedForwardLayers& layers, std::int64_t slots) {
  const double weights = static_cast<double>(layers.gate.N) * static_cast<double>(layers.gate.K) +
                         (layers.up ? static_cast<double>(layers.up->N) * static_cast<double>(layers.up->K) : 0.0) +
                         static_cast<double>(layers.down.N) * static_cast<double>(layers.down.K);
  return weights * static_cast<double>(slots);
}

double multiply_adds(const MoeProblem& problem) {
  return multiply_adds(problem.experts, problem.tokens * problem.k) +
         (problem.shared ? multiply_adds(*problem.shared, problem.tokens) : 0.0);
}

/// The slots of all tokens: which expert computes each, and from which row of x.
struct Slots {
  std::int64_t of_token;                // k, and one more if there are shared experts
  std::span<const std::int64_t> token;  // of each slot that has an expert, else -1
  Routing routed;
  Routing shared;
  std::vector<std::int64_t> missing;

  Slots(CallContext& call, const MoeProblem& problem) : of_token(problem.k + (problem.shared ? 1 : 0)) {
    const std::int64_t slots = problem.tokens * of_token;
    auto* const tokens = call.take<std::int64_t>(slots);
    auto* const experts = call.take<std::int64_t>(slots);
    token = {tokens, static_cast<std::size_t>(slots)};
    for (std::int64_t t = 0; t < problem.tokens; ++t) {
      for (std::int64_t j = 0; j < problem.k; ++j) {
        const std::int64_t slot = t * of_token + j;
        experts[slot] = problem.ids[static_cast<std::size_t>(t * problem.k + j)];
        tokens[slot] = experts[slot] == no_expert ? -1 : t;
        if (experts[slot] == no_expert) {
          missing.push_back(slot);
        }
      }
      if (problem.shared) {
        const std::int64_t slot = t * of_token + problem.k;
        experts[slot] = no_expert;  // no routed one
        tokens[slot] = t;
        shared.order.push_back(slot);
      }
    }
    routed = route({experts, static_cast<std::size_t>(slots)}, experts_of(problem.experts.gate.weights), false);
    if (problem.shared) {
      shared.segments.push_back({.expert = 0, .first = 0, .last = problem.tokens});
    }
  }
  [[nodiscard]] std::int64_t count() const { return static_cast<std::int64_t>(token.size()); }
};

/// The router's weight of each slot, and the scale of shared experts, as (tokens, slots of a token) float32.
float* weights_of_slots(CallContext& call, const MoeProblem& problem, const Slots& slots) {
  const FloatEnvironment environment;  // no phase runs yet, and a conversion may meet subnormals
  const KernelTable& kernels = call.kernels();
  auto* const weights = call.take<float>(problem.tokens, slots.of_token);
  auto* const topk = call.take<float>(problem.tokens, problem.k);
  auto* const scale = call.take<float>(problem.tokens);
  if (problem.k != 0) {
    load_floats(kernels, problem.topk_weights, 0, problem.tokens * problem.k, topk);
  }
  if (!problem.shared_scale.empty()) {
    load_floats(kernels, problem.shared_scale, 0, problem.tokens, scale);
  } else {
    std::fill_n(scale, problem.tokens, 1.0F);
  }
  for (std::int64_t t = 0; t < problem.tokens; ++t) {
    std::copy_n(topk + t * problem.k, problem.k, weights + t * slots.of_token);
    if (problem.shared) {
      weights[t * slots.of_token + problem.k] = scale[t];
    }
  }
  return weights;
}

/// x multiplied by the router's weights: a row for each slot, of the type of x.
class WeightedInput {
 public:
  WeightedInput(CallContext& call, const MoeProblem& problem, const Slots& slots, float* weights)
      : kernels_(call.kernels()),
        problem_(problem),
        slots_(slots),
        rows_(call.take<std::byte>(slots.count(), row_bytes())),
        matrices_(rows_, slots.count(), 1, problem.H, problem.dtype),
        row_of_slot_(slots.token.begin(), slots.token.end()) {
    for (std::size_t slot = 0; slot < row_of_slot_.size(); ++slot) {
      row_of_slot_[slot] = row_of_slot_[slot] < 0 ? -1 : static_cast<std::int64_t>(slot);
    }
    // What multiplies x does not multiply the results as well. Shared experts take x itself, and their results have a scale.
    for (std::int64_t slot = 0; slot < slots.count(); ++slot) {
      factors_.push_back(is_shared(slot) ? 1.0F : std::exchange(weights[slot], 1.0F));
    }
  }
  WeightedInput(const WeightedInput&) = delete;
  WeightedInput& operator=(const WeightedInput&) = delete;

  [[nodiscard]] const MatrixBatch& matrices() const noexcept { return matrices_; }
  [[nodiscard]] std::span<const std::int64_t> row_of_slot() const noexcept { return row_of_slot_; }
  void run(std::int64_t slot) const {
    const std::int64_t token = slots_.token[static_cast<std::size_t>(slot)];
    if (token < 0) {
      return;
    }
    const ThreadCached<Scratch> scratch;
    auto* const row = scratch->take<float>(problem_.H);
    kernels_.widen(problem_.x.row(token, 0), scale_type_of(problem_.x.dtype()), problem_.H, row);
    const float factor = factors_[static_cast<std::size_t>(slot)];
    for (std::int64_t i = 0; i < problem_.H; ++i) {
      row[i] *= factor;
    }
    kernels_.round(row, problem_.H, problem_.dtype, rows_ + slot * row_bytes());
  }

 private:
  [[nodiscard]] std::int64_t row_bytes() const { return problem_.H * static_cast<std::int64_t>(size_of(problem_.dtype)); }
  [[nodiscard]] bool is_shared(std::int64_t slot) const { return slot % slots_.of_token == problem_.k; }

  const KernelTable& kernels_;
  const MoeProblem& problem_;
  const Slots& slots_;
  std::byte* rows_;
  MatrixBatch matrices_;
  std::vector<std::int64_t> row_of_slot_;
  std::vector<float> factors_;
};

}  // namespace

void run(const MoeProblem& problem) {
  CallContext call(multiply_adds(problem), problem.threads);
  const KernelTable& kernels = call.kernels();
  Slots slots(call, problem);
  const bool sums = !problem.topk_weights.empty() || problem.k == 0;
  const std::int64_t row_bytes = problem.H * static_cast<std::int64_t>(size_of(problem.dtype));
  const SlotMemory memory = {
      .data = sums ? call.take<std::byte>(slots.count(), row_bytes) : problem.y, .dtype = problem.dtype, .count = slots.count()};
  float* const weights = sums ? weights_of_slots(call, problem, slots) : nullptr;
  call.use_at_most(std::max(problem.tokens, slots.count()) * strips_of(std::max(problem.H, problem.experts.gate.N)));

  const auto equal_cost = [](std::int64_t) { return 1; };
  std::optional<WeightedInput> weighted;
  if (problem.router_weight_on_input) {
    weighted.emplace(call, problem, slots, weights);
    call.add_phase(slots.count(), equal_cost, [&](std::int64_t slot, std::int64_t) { weighted->run(slot); });
  }
  RowForms x(call, {.matrices = weighted ? weighted->matrices() : problem.x,
                    .matrix_of_pair = weighted ? weighted->row_of_slot() : slots.token,
                    .M = 1,
                    .K = problem.H});
  FeedForward experts(call, problem.experts, std::move(slots.routed), problem.slices, x, memory);
  std::optional<FeedForward> shared;
  if (problem.shared) {
    shared.emplace(call, *problem.shared, std::move(slots.shared), problem.slices, x, memory);
  }

  JointPhase first;
  x.add_to(first);
  if (!slots.missing.empty()) {
    first.add({.count = static_cast<std::int64_t>(slots.missing.size()),
               .cost = [&](std::int64_t) { return problem.H; },
               .work =
                   [&](std::int64_t i, std::int64_t) {
                     std::memset(memory.data + slots.missing[static_cast<std::size_t>(i)] * row_bytes, 0,
                                 static_cast<std::size_t>(row_bytes));
                   }});
  }
  std::move(first).add_to(call);
  for (PhasePart (FeedForward::* const part_of)() :
       {&FeedForward::part_of_h, &FeedForward::part_of_h_rows, &FeedForward::part_of_slots}) {
    JointPhase stage;
    stage.add((experts.*part_of)());
    if (shared) {
      stage.add(((*shared).*part_of)());
    }
    std::move(stage).add_to(call);
  }
  const SumOfSlots sum(kernels, slots.of_token, problem.H, weights, problem.dtype, problem.y);
  if (sums) {
    const auto rows_of_token = [&](std::int64_t token, std::int64_t output, std::int64_t) -> SumOfSlots::Rows {
      const std::byte* const row = memory.data + token * slots.of_token * row_bytes;
      return {row + output * static_cast<std::int64_t>(size_of(problem.dtype)), row_bytes, problem.dtype};
    };
    call.add_phase(sum.items(problem.tokens), equal_cost,
                   [&, rows_of_token](std::int64_t item, std::int64_t) { sum.run(item, rows_of_token); });
  }
  call.run();
}

}  // namespace gqmm::cpu
