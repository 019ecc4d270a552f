#include "cpu/feed_forward.hpp"

#include "cpu/backend.hpp"
#include "cpu/scratch.hpp"

#include <algorithm>

namespace gqmm::cpu {
namespace {

/// The memory of an epilogue.
struct EpilogueScratch {
  Scratch bias;
  Scratch gate;
  Scratch up;
};

std::int64_t rows_of(const Routing& routing) { return static_cast<std::int64_t>(routing.order.size()); }

/// The position in routing.order of each of `slots` slots. Slots that it does not have are left out.
std::span<const std::int64_t> positions_of_slots(CallContext& call, const Routing& routing, std::int64_t slots) {
  auto* const positions = call.take<std::int64_t>(slots);
  for (std::size_t row = 0; row < routing.order.size(); ++row) {
    positions[routing.order[row]] = static_cast<std::int64_t>(row);
  }
  return {positions, static_cast<std::size_t>(slots)};
}

}  // namespace

const PreparedRows& RowForms::in_form(const RowForm& form) {
  std::optional<PreparedRows>& rows =
      *std::find_if(prepared_.begin(), prepared_.end(), [&](const auto& known) { return !known || known->form() == form; });
  return rows ? *rows : rows.emplace(call_, source_, form);
}

void RowForms::add_to(JointPhase& phase) {
  for (std::optional<PreparedRows>& rows : prepared_) {
    if (rows) {
      phase.add({.count = rows->count(),
                 .cost = [K = source_.K](std::int64_t) { return K; },
                 .work = [&rows = *rows](std::int64_t row, std::int64_t) { rows.prepare(row); }});
    }
  }
}

LayerProduct::LayerProduct(const CallContext& call, const LinearLayer& layer, const Routing& routing, int slices,
                           std::optional<std::int64_t> planned_outputs)
    : kernels_(call.kernels()), layer_(layer), routing_(routing), weights_(layer.weights, layer.N, layer.K, kernels_) {
  const PlannedProduct product(layer.weights, 1, planned_outputs.value_or(layer.N), layer.K, slices);
  const KernelLimits limits = limits_for(product, kernels_);
  plan_ = planned_outputs ? make_plan(product, limits, routing, call.threads()) : Plan{plan_kernels(product, limits)};
}

Item LayerProduct::item_for(const Item& rows_of, std::int64_t first, std::int64_t count) const {
  Item item = rows_of;
  item.first_strip = first / lanes;
  item.strips = strips_of(first + count) - item.first_strip;
  item.path = path_of(layer_.weights, plan_.limits, item.rows);
  return item;
}

void LayerProduct::add_bias(const ResultBlock& block) const {
  const ThreadCached<EpilogueScratch> scratch;
  auto* const bias = scratch->bias.take<float>(block.outputs());
  const Dtype dtype = layer_.bias.dtype();
  kernels_.widen(layer_.bias.row(0, block.expert()) + block.first_output() * static_cast<std::int64_t>(size_of(dtype)),
                 scale_type_of(dtype), block.outputs(), bias);
  for (std::int64_t r = 0; r < block.rows(); ++r) {
    float* const row = block.row(r);
    for (std::int64_t n = 0; n < block.outputs(); ++n) {
      row[n] += bias[n];
    }
  }
}

FeedForward::FeedForward(CallContext& call, const FeedForwardLayers& layers, Routing routing, int slices, RowForms& x,
                         SlotMemory slots)
    : kernels_(call.kernels()),
      layers_(layers),
      activation_(kernels_, layers.activation),
      routing_(std::move(routing)),
      h_row_of_slot_(positions_of_slots(call, routing_, slots.count)),
      gate_(call, layers.gate, routing_, slices, layers.I()),
      down_(call, layers.down, routing_, slices, layers.down.N),
      h_(call.take<float>(rows_of(routing_), layers.I())),
      h_matrices_(h_, rows_of(routing_), 1, layers.I(), Dtype::float32),
      h_rows_(call, {.matrices = h_matrices_, .matrix_of_pair = h_row_of_slot_, .M = 1, .K = layers.I(), .every_matrix = true},
              down_.row_form()),
      slots_(slots) {
  gate_.multiply(x.in_form(gate_.row_form()));
  if (layers.up) {
    up_.emplace(call, *layers.up, routing_, slices);
    up_->multiply(x.in_form(up_->row_form()));
  }
  down_.multiply(h_rows_);
}

// Functions of a part refer to this object and nothing else: std::function keeps a single pointer without allocating memory.
PhasePart FeedForward::part_of_h() {
  return {.count = static_cast<std::int64_t>(gate_.plan().items.size()),
          .cost =
              [this](std::int64_t i) {
                return cost(*gate_.plan().item(i)) * layers_.gate.K * (is_gated(layers_.activation) ? 2 : 1);
              },
          .work =
              [this](std::int64_t i, std::int64_t next) {
                const Plan& plan = gate_.plan();
                if (interleaved()) {
                  compute_h_interleaved(*plan.item(i), plan.item(next));
                } else {
                  compute_h(*plan.item(i), plan.item(next));
                }
              }};
}

PhasePart FeedForward::part_of_h_rows() {
  return {.count = h_rows_.count(),
          .cost = [this](std::int64_t) { return layers_.I(); },
          .work = [this](std::int64_t row, std::int64_t) { h_rows_.prepare(row); }};
}

PhasePart FeedForward::part_of_slots() {
  return {.count = static_cast<std::int64_t>(down_.plan().items.size()),
          .cost = [this](std::int64_t i) { return cost(*down_.plan().item(i)) * layers_.down.K; },
          .work =
              [this](std::int64_t i, std::int64_t next) {
                const Plan& plan = down_.plan();
                down_.run(*plan.item(i), plan.item(next), [this](const ResultBlock& block) { round_into_slots(block); });
              }};
}

std::pair<FeedForward::Half, FeedForward::Half> FeedForward::halves() const {
  if (!layers_.gate_has_both()) {
    return {{&gate_, 0}, {up_ ? &*up_ : nullptr, 0}};
  }
  const std::int64_t I = layers_.I();
  return layers_.order == GateUpOrder::gate_up ? std::pair(Half{&gate_, 0}, Half{&gate_, I})
                                               : std::pair(Half{&gate_, I}, Half{&gate_, 0});
}

/// Computes the gate of an item, then the up of the same outputs while the gate is in the cache.
void FeedForward::compute_h(const Item& item, const Item* next) const {
  const auto run_half = [&](const Half& half, const auto& epilogue) {
    const auto item_of_half = [&](const Item& outputs) {
      const std::int64_t first = outputs.first_strip * lanes;
      const std::int64_t count = std::min(outputs.strips * lanes, layers_.I() - first);
      return half.product->item_for(outputs, half.first_output + first, count);
    };
    const Item own = item_of_half(item);
    const std::optional<Item> following = next != nullptr ? std::optional(item_of_half(*next)) : std::nullopt;
    half.product->run(own, following ? &*following : nullptr, epilogue);
  };
  const auto [gate, up] = halves();
  const std::int64_t first = item.first_strip * lanes;
  const std::int64_t n = std::min(item.strips * lanes, layers_.I() - first);
  const std::int64_t gate_offset = (gate.first_output + first) % lanes;
  run_half(gate, [&, &up = up](const ResultBlock& gates) {
    if (up.product == nullptr) {
      for (std::int64_t r = 0; r < item.rows; ++r) {
        activate(item.first_row + r, first, n, gates.row(r) + gate_offset, nullptr);
      }
      return;
    }
    const std::int64_t up_offset = (up.first_output + first) % lanes;
    run_half(up, [&](const ResultBlock& ups) {
      for (std::int64_t r = 0; r < item.rows; ++r) {
        activate(item.first_row + r, first, n, gates.row(r) + gate_offset, ups.row(r) + up_offset);
      }
    });
  });
}

void FeedForward::compute_h_interleaved(const Item& item, const Item* next) const {
  const std::int64_t I = layers_.I();
  const auto both_of = [&](const Item& outputs) {
    const std::int64_t first = outputs.first_strip * lanes;
    return gate_.item_for(outputs, 2 * first, 2 * std::min(outputs.strips * lanes, I - first));
  };
  const Item own = both_of(item);
  const std::optional<Item> following = next != nullptr ? std::optional(both_of(*next)) : std::nullopt;
  const std::int64_t first = item.first_strip * lanes;
  const std::int64_t n = std::min(item.strips * lanes, I - first);
  gate_.run(own, following ? &*following : nullptr, [&](const ResultBlock& both) {
    const ThreadCached<EpilogueScratch> scratch;
    auto* const gate = scratch->gate.take<float>(n);
    auto* const up = scratch->up.take<float>(n);
    for (std::int64_t r = 0; r < item.rows; ++r) {
      const float* const row = both.row(r);
      for (std::int64_t i = 0; i < n; ++i) {
        gate[i] = row[2 * i];
        up[i] = row[2 * i + 1];
      }
      activate(item.first_row + r, first, n, gate, up);
    }
  });
}

void FeedForward::activate(std::int64_t row, std::int64_t first, std::int64_t n, const float* gate, const float* up) const {
  activation_(gate, up, h_ + row * layers_.I() + first, n);
}

void FeedForward::round_into_slots(const ResultBlock& block) const {
  const std::int64_t H = layers_.down.N;
  const auto itemsize = static_cast<std::int64_t>(size_of(slots_.dtype));
  for (std::int64_t r = 0; r < block.rows(); ++r) {
    kernels_.round(block.row(r), block.outputs(), slots_.dtype,
                   slots_.data + (block.result_row(r) * H + block.first_output()) * itemsize);
  }
}

}  // namespace gqmm::cpu
