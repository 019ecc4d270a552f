#include "cpu/feed_forward.hpp"

#include "cpu/backend.hpp"
#include "cpu/scratch.hpp"

#include <algorithm>
#include <numeric>

namespace gqmm::cpu {
namespace {

/// The memory of an epilogue.
struct EpilogueScratch {
  Scratch bias;
  Scratch gate;
  Scratch up;
};

std::int64_t rows_of(const Routing& routing) { return static_cast<std::int64_t>(routing.order.size()); }

Routing positions_of(const Routing& routing) {
  Routing positions = {.order = std::vector<std::int64_t>(routing.order.size()), .segments = routing.segments, .missing = {}};
  std::iota(positions.order.begin(), positions.order.end(), std::int64_t{0});
  return positions;
}

Problem problem_of(const LinearLayer& layer, int slices, std::int64_t outputs) {
  Problem problem;
  problem.M = 1;
  problem.N = outputs;
  problem.K = layer.K;
  problem.weights = layer.weights;
  problem.slices = slices;
  return problem;
}

/// The items of a plan as a part of a phase. `layers` layers of this size are computed for each item.
template <class Work>
PhasePart part_of(const Plan& plan, std::int64_t K, std::int64_t layers, Work work) {
  return {.count = static_cast<std::int64_t>(plan.items.size()),
          .cost = [&plan, K, layers](std::int64_t i) { return cost(*plan.item(i)) * K * layers; },
          .work = [&plan, work](std::int64_t i, std::int64_t next) { work(*plan.item(i), plan.item(next)); }};
}

}  // namespace

const PreparedRows& RowForms::in_form(const RowForm& form) {
  for (const Prepared& known : prepared_) {
    if (known.form == form) {
      return *known.rows;
    }
  }
  prepared_.push_back({form, std::make_unique<PreparedRows>(call_, source_, form)});
  return *prepared_.back().rows;
}

std::vector<PhasePart> RowForms::parts() const {
  std::vector<PhasePart> parts;
  for (const Prepared& prepared : prepared_) {
    PreparedRows& rows = *prepared.rows;
    parts.push_back({.count = rows.count(),
                     .cost = [K = source_.K](std::int64_t) { return K; },
                     .work = [&rows](std::int64_t row, std::int64_t) { rows.prepare(row); }});
  }
  return parts;
}

LayerProduct::LayerProduct(const CallContext& call, const LinearLayer& layer, const Routing& routing, int slices,
                           std::int64_t planned_outputs)
    : kernels_(call.kernels()),
      layer_(layer),
      routing_(routing),
      problem_(problem_of(layer, slices, planned_outputs)),
      plan_(make_plan(problem_, limits_for(problem_, kernels_), routing, call.threads())),
      weights_(layer.weights, layer.N, layer.K, kernels_) {}

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
      positions_(positions_of(routing_)),
      gate_(call, layers.gate, routing_, slices, layers.I()),
      down_(call, layers.down, positions_, slices, layers.down.N),
      h_(call.take<float>(rows_of(routing_), layers.I())),
      h_matrices_(array::borrow(h_, {rows_of(routing_), 1, layers.I()}, Dtype::float32)),
      h_rows_(call, {.matrices = h_matrices_, .matrix_of_pair = positions_.order, .M = 1, .K = layers.I()}, down_.row_form()),
      slots_(slots) {
  gate_.multiply(x.in_form(gate_.row_form()));
  if (layers.up) {
    up_.emplace(call, *layers.up, routing_, slices, layers.I());
    up_->multiply(x.in_form(up_->row_form()));
  }
  down_.multiply(h_rows_);
}

PhasePart FeedForward::part_of_h() {
  const std::int64_t layers = is_gated(layers_.activation) ? 2 : 1;
  const bool interleaved = layers_.gate_has_both() && layers_.order == GateUpOrder::interleaved;
  return part_of(gate_.plan(), layers_.gate.K, layers, [this, interleaved](const Item& item, const Item* next) {
    if (interleaved) {
      compute_h_interleaved(item, next);
    } else {
      compute_h(item, next);
    }
  });
}

PhasePart FeedForward::part_of_h_rows() {
  return {.count = h_rows_.count(),
          .cost = [I = layers_.I()](std::int64_t) { return I; },
          .work = [this](std::int64_t row, std::int64_t) { h_rows_.prepare(row); }};
}

PhasePart FeedForward::part_of_slots() {
  return part_of(down_.plan(), layers_.down.K, 1, [this](const Item& item, const Item* next) {
    down_.run(item, next, [this](const ResultBlock& block) { round_into_slots(block); });
  });
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
    const std::int64_t slot = routing_.order[static_cast<std::size_t>(block.result_row(r))];
    kernels_.round(block.row(r), block.outputs(), slots_.dtype, slots_.data + (slot * H + block.first_output()) * itemsize);
  }
}

}  // namespace gqmm::cpu
