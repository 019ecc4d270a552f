// The feed-forward block of routed experts, down(activation(gate(x), up(x))), as parts of a call's phases.
#pragma once

#include "cpu/activate.hpp"
#include "cpu/call_context.hpp"
#include "cpu/expert_product.hpp"
#include "cpu/joint_phase.hpp"
#include "cpu/prepared_rows.hpp"
#include "cpu/weight_view.hpp"
#include "plan/moe_problem.hpp"
#include "plan/plan.hpp"
#include "plan/routing.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>

namespace gqmm::cpu {

/// Rows of x in each form that some product of a call needs.
class RowForms {
 public:
  /// `source` must outlive this object.
  RowForms(CallContext& call, const RowSource& source) : call_(call), source_(source) {}

  /// Returns the rows in this form. The reference stays valid.
  const PreparedRows& in_form(const RowForm& form);
  /// Adds what prepares all rows in all forms.
  void add_to(JointPhase& phase);

 private:
  static constexpr std::size_t most_forms = 4;  // gate and up, of the routed and of the shared experts

  CallContext& call_;
  RowSource source_;
  std::array<std::optional<PreparedRows>, most_forms> prepared_;
};

/// A linear layer of the experts, planned for rows of one matrix each. The layer and the routing must outlive this object.
class LayerProduct {
 public:
  /// `planned_outputs`: the outputs that the items of the plan cover. Without it, there are no items but those of item_for.
  LayerProduct(const CallContext& call, const LinearLayer& layer, const Routing& routing, int slices,
               std::optional<std::int64_t> planned_outputs = {});
  LayerProduct(const LayerProduct&) = delete;
  LayerProduct& operator=(const LayerProduct&) = delete;

  [[nodiscard]] const Plan& plan() const noexcept { return plan_; }
  [[nodiscard]] RowForm row_form() const { return cpu::row_form(plan_, weights_); }
  /// Sets the rows that the layer multiplies, before the call runs.
  void multiply(const PreparedRows& rows) { product_.emplace(kernels_, plan_, routing_, rows, weights_); }

  /// The item that computes the outputs [first, first + count) of the same rows, and perhaps a few outputs beside them.
  [[nodiscard]] Item item_for(const Item& rows_of, std::int64_t first, std::int64_t count) const;

  /// Computes an item, adds the bias, and calls epilogue(ResultBlock), as ExpertProduct::run does.
  template <class Epilogue>
  void run(const Item& item, const Item* next, const Epilogue& epilogue) const {
    product_->run(item, next, [&](const ResultBlock& block) {
      if (!layer_.bias.empty()) {
        add_bias(block);
      }
      epilogue(block);
    });
  }

 private:
  void add_bias(const ResultBlock& block) const;

  const KernelTable& kernels_;
  const LinearLayer& layer_;
  const Routing& routing_;
  Plan plan_;
  WeightView weights_;
  std::optional<ExpertProduct> product_;
};

/// Where a block writes the results of its rows: row `slot` of a row-major matrix of H columns.
struct SlotMemory {
  std::byte* data;
  Dtype dtype;
  std::int64_t count;
};

/// The block. It has three stages, which are parts of consecutive phases. Rows are those of the routing's pairs, "slots" here.
/// The layers and the call must outlive this object, and it must exist until the call has run.
class FeedForward {
 public:
  FeedForward(CallContext& call, const FeedForwardLayers& layers, Routing routing, int slices, RowForms& x, SlotMemory slots);
  FeedForward(const FeedForward&) = delete;
  FeedForward& operator=(const FeedForward&) = delete;

  /// h = activation(gate(x), up(x)) in float32.
  [[nodiscard]] PhasePart part_of_h();
  /// Prepares the rows of h for the last product.
  [[nodiscard]] PhasePart part_of_h_rows();
  /// down(h), rounded into the slots.
  [[nodiscard]] PhasePart part_of_slots();

 private:
  [[nodiscard]] bool interleaved() const { return layers_.gate_has_both() && layers_.order == GateUpOrder::interleaved; }
  void compute_h(const Item& item, const Item* next) const;
  void compute_h_interleaved(const Item& item, const Item* next) const;
  /// Writes the outputs [first, first + n) of a row of h.
  void activate(std::int64_t row, std::int64_t first, std::int64_t n, const float* gate, const float* up) const;
  void round_into_slots(const ResultBlock& block) const;

  /// The part of a product that is gate, or up: it begins at this output.
  struct Half {
    const LayerProduct* product;
    std::int64_t first_output;
  };
  [[nodiscard]] std::pair<Half, Half> halves() const;

  const KernelTable& kernels_;
  const FeedForwardLayers& layers_;
  const ActivationOfRows activation_;
  const Routing routing_;
  const std::span<const std::int64_t> h_row_of_slot_;  // the position of the slot in routing_.order
  LayerProduct gate_;
  std::optional<LayerProduct> up_;
  LayerProduct down_;
  float* const h_;  // (rows, I)
  const MatrixBatch h_matrices_;
  PreparedRows h_rows_;
  const SlotMemory slots_;
};

}  // namespace gqmm::cpu
