// All that a call needs for one product y[i] = x[lhs[i]] · ŵ[rhs[i]]ᵀ, put together from its problem.
#pragma once

#include "cpu/call_context.hpp"
#include "cpu/expert_product.hpp"
#include "cpu/prepared_rows.hpp"
#include "cpu/weight_view.hpp"
#include "plan/plan.hpp"
#include "plan/routing.hpp"

#include <cstdint>

namespace gqmm::cpu {

/// A planned product, which adds its two phases to a call. It must exist until the call has run, because the phases refer to it.
/// The call and the problem must outlive it.
class GatheredProduct {
 public:
  GatheredProduct(CallContext& call, const Problem& problem);
  GatheredProduct(const GatheredProduct&) = delete;
  GatheredProduct& operator=(const GatheredProduct&) = delete;

  [[nodiscard]] const Routing& routing() const noexcept { return routing_; }
  /// The number of items of the larger phase, for CallContext::use_at_most.
  [[nodiscard]] std::int64_t items_of_a_phase() const;

  /// Adds the phases: one prepares the rows of x, the other computes the items and calls epilogue(block) for each finished block
  /// of the result. The epilogue may run on any thread.
  template <class Epilogue>
  void add_phases(CallContext& call, const Epilogue& epilogue) {
    call.add_phase(rows_.count(), [](std::int64_t) { return 1; }, [this](std::int64_t row, std::int64_t) { rows_.prepare(row); });
    call.add_phase(
        static_cast<std::int64_t>(plan_.items.size()), [this](std::int64_t i) { return cost(*plan_.item(i)); },
        [this, epilogue](std::int64_t i, std::int64_t next) { product_.run(*plan_.item(i), plan_.item(next), epilogue); });
  }

 private:
  Routing routing_;
  Plan plan_;
  WeightView weights_;
  PreparedRows rows_;
  ExpertProduct product_;
};

}  // namespace gqmm::cpu
