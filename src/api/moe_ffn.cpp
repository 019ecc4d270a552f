// moe_ffn: checks, lowering to one problem, and the call.
#include "cpu/moe_ffn.hpp"

#include "api/check.hpp"
#include "api/indices.hpp"
#include "api/lower.hpp"
#include "api/output.hpp"
#include "api/weight_source.hpp"
#include "arrays/views.hpp"
#include "plan/problem.hpp"
#include "plan/routing.hpp"
#include "threads/node_binding.hpp"

#include <gqmm/infer.hpp>
#include <gqmm/moe.hpp>

#include <algorithm>
#include <cstddef>
#include <limits>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

namespace gqmm {

using namespace detail;

namespace {

constexpr std::string_view op = "moe_ffn";

/// The shape without its last dimension.
Shape leading_of_rows(const array& a) { return Shape(a.shape().begin(), a.shape().end() - 1); }
bool same_leading_of_rows(const array& a, const array& b) {
  return std::equal(a.shape().begin(), a.shape().end() - 1, b.shape().begin(), b.shape().end() - 1);
}

/// The weights of a layer after the checks of their own arrays.
struct LayerSource {
  std::optional<WeightSource> quantized = {};
  const array* dense = nullptr;
  Shape leading = {};
  WeightExtents extents = {};
};

struct ToSource {
  LayerSource operator()(const QuantizedWeights& weights) const { return of(source_of(op, weights, std::nullopt)); }
  LayerSource operator()(const PackedWeights& weights) const { return of(source_of(op, weights, std::nullopt)); }
  LayerSource operator()(const array& weights) const {
    check_compute_float(op, "the dense array", weights);
    if (weights.rank() < 2) {
      fail(op, "the dense array has shape {}; pass (E, outputs, inputs)", to_string(weights.shape()));
    }
    return {.dense = &weights, .leading = leading_shape(weights), .extents = {.N = weights.dim(-2), .K = weights.dim(-1)}};
  }

 private:
  static LayerSource of(WeightSource source) {
    Shape leading = source.leading;
    const WeightExtents extents = source.extents;
    return {.quantized = std::move(source), .leading = std::move(leading), .extents = extents};
  }
};

std::string shape_text(const LayerSource& source) {
  Shape shape = source.leading;
  shape.push_back(source.extents.N);
  shape.push_back(source.extents.K);
  return to_string(shape);
}

/// How the layers of a block are stacked: by expert, or not at all.
struct Stacking {
  bool shared;
  std::int64_t experts;

  [[nodiscard]] bool fits(const Shape& leading) const {
    return shared ? leading.empty() || leading == Shape{1} : leading == Shape{experts};
  }
};

/// The shape that an array of a block should have, for messages: "(8, 96)", or "(96,)" for shared experts.
Shape stacked(const Stacking& stacking, const Shape& shape) {
  Shape all = shape;
  if (!stacking.shared) {
    all.insert(all.begin(), stacking.experts);
  }
  return all;
}

/// What the caller calls a layer and its bias.
struct LayerNames {
  std::string_view layer;
  std::string_view bias;
};
struct BlockNames {
  LayerNames gate;
  LayerNames up;
  LayerNames down;
};
constexpr BlockNames routed_names = {{"gate", "gate_bias"}, {"up", "up_bias"}, {"down", "down_bias"}};
constexpr BlockNames shared_names = {
    {"shared.gate", "shared.gate_bias"}, {"shared.up", "shared.up_bias"}, {"shared.down", "shared.down_bias"}};

/// The bias of a layer that has N outputs.
void check_bias(const LayerNames& names, const std::optional<array>& bias, const Stacking& stacking, std::int64_t N) {
  if (!bias) {
    return;
  }
  check_compute_float(op, names.bias, *bias);
  const bool fits = bias->rank() > 0 && bias->dim(-1) == N && stacking.fits(leading_of_rows(*bias));
  if (!fits) {
    fail(op, "{} has shape {}; it must be {}, a value for each output of {}", names.bias, to_string(bias->shape()),
         to_string(stacked(stacking, {N})), names.layer);
  }
}

/// Lowers a layer whose checks have passed.
void lower_layer(LoweredMoe& lowered, const std::optional<array>& bias, const LayerSource& source,
                 std::span<const std::int64_t> used, LinearLayer& layer) {
  layer.N = source.extents.N;
  layer.K = source.extents.K;
  if (source.quantized) {
    layer.weights = matrices_of(*source.quantized, used, lowered);
  } else {
    layer.weights = DenseMatrices{MatrixBatch(*source.dense).transposed()};
  }
  if (bias) {
    const std::int64_t only[] = {0};
    layer.bias = lowered.contiguous(as_matrices(*bias), only);
  }
}

/// Appends the arrays of a layer.
void add_operands(const LayerNames& names, const std::optional<array>& bias, const LayerSource& source,
                  std::vector<NamedOperand>& operands) {
  if (source.quantized) {
    for (const NamedOperand& part : operands_of(*source.quantized)) {
      operands.push_back({names.layer, part.operand});
    }
  } else {
    operands.push_back({names.layer, source.dense});
  }
  operands.push_back({names.bias, address_of(bias)});
}

/// A block of layers as the caller has it, for routed or for shared experts.
struct BlockArguments {
  const ExpertWeights& gate;
  const std::optional<ExpertWeights>& up;
  const ExpertWeights& down;
  const std::optional<array>& gate_bias;
  const std::optional<array>& up_bias;
  const std::optional<array>& down_bias;
  Activation activation;
  GateUpOrder order;
  bool shared;
};

/// A block after its checks.
struct BlockSource {
  Stacking stacking;
  LayerSource gate;
  std::optional<LayerSource> up;
  LayerSource down;
};

BlockSource check_block(const BlockArguments& block, std::int64_t H) {
  const BlockNames& names = block.shared ? shared_names : routed_names;
  const std::string_view gate_name = names.gate.layer;
  const std::string_view up_name = names.up.layer;
  const std::string_view down_name = names.down.layer;
  check_activation(block.activation, op);
  const bool gated = is_gated(block.activation);
  if (block.up && !gated) {
    fail(op, "{} is given but {} is not gated; leave {} out, or use a gated activation", up_name, name_of(block.activation),
         up_name);
  }
  if (block.up_bias && !block.up) {
    fail(op, "{} is given but {} is not; {}", names.up.bias, up_name,
         gated ? "a gate that holds both has one bias for both, gate_bias" : "an activation that is not gated has no up");
  }
  const auto source = [](std::string_view name, const ExpertWeights& weights) {
    return naming(op, name, [&] { return std::visit(ToSource(), weights); });
  };
  BlockSource checked = {.stacking = {.shared = block.shared, .experts = 0},
                         .gate = source(gate_name, block.gate),
                         .up = {},
                         .down = source(down_name, block.down)};
  if (block.up) {
    checked.up = source(up_name, *block.up);
  }
  if (block.shared) {
    checked.stacking.experts = 1;
  } else if (checked.gate.leading.size() == 1) {
    checked.stacking.experts = checked.gate.leading.front();
  } else {
    fail(op, "{} has shape {}; it must have three dimensions, (E, outputs, inputs)", gate_name, shape_text(checked.gate));
  }
  const Stacking& stacking = checked.stacking;
  const bool both = gated && !block.up;
  const std::int64_t I = checked.gate.extents.N / (both ? 2 : 1);
  if (both && checked.gate.extents.N % 2 != 0) {
    fail(op,
         "{} has {} outputs, but without {} it holds gate and up, an even number; pass {}, or an activation that is not gated",
         gate_name, checked.gate.extents.N, up_name, up_name);
  }
  const auto check_shape = [&](std::string_view name, const LayerSource& of, std::int64_t N, std::int64_t K) {
    if (!stacking.fits(of.leading) || of.extents.N != N || of.extents.K != K) {
      fail(op, "{} has shape {}; it must be {}, since rows of x have H = {} and {} has shape {}", name, shape_text(of),
           to_string(stacked(stacking, {N, K})), H, gate_name, shape_text(checked.gate));
    }
  };
  check_shape(gate_name, checked.gate, checked.gate.extents.N, H);
  if (checked.up) {
    check_shape(up_name, *checked.up, I, H);
  }
  check_shape(down_name, checked.down, H, I);
  if (I == 0 || H == 0) {
    fail(op, "{} has shape {}; layers must have inputs and outputs", gate_name, shape_text(checked.gate));
  }
  check_bias(names.gate, block.gate_bias, stacking, checked.gate.extents.N);
  if (block.up) {
    check_bias(names.up, block.up_bias, stacking, I);
  }
  check_bias(names.down, block.down_bias, stacking, H);
  return checked;
}

/// `used`: the experts that the call reads.
void lower_block(LoweredMoe& lowered, const BlockArguments& block, const BlockSource& source, std::span<const std::int64_t> used,
                 FeedForwardLayers& layers) {
  lower_layer(lowered, block.gate_bias, source.gate, used, layers.gate);
  if (source.up) {
    lower_layer(lowered, block.up_bias, *source.up, used, layers.up.emplace());
  }
  lower_layer(lowered, block.down_bias, source.down, used, layers.down);
  layers.order = block.order;
  layers.activation = block.activation;
}

/// Appends the arrays of a block.
void add_operands(const BlockArguments& block, const BlockSource& source, std::vector<NamedOperand>& operands) {
  const BlockNames& names = block.shared ? shared_names : routed_names;
  add_operands(names.gate, block.gate_bias, source.gate, operands);
  if (source.up) {
    add_operands(names.up, block.up_bias, *source.up, operands);
  }
  add_operands(names.down, block.down_bias, source.down, operands);
}

/// Checks x, ids and weights against each other.
void check_rows(const array& x, const array& topk_ids, const std::optional<array>& topk_weights) {
  check_compute_float(op, "x", x);
  if (x.rank() == 0) {
    fail(op, "x is a scalar; it needs at least one dimension, (H,)");
  }
  if (topk_ids.rank() == 0 || !same_leading_of_rows(topk_ids, x)) {
    fail(op, "x has shape {} but topk_ids has shape {}; they must agree but for the last dimension, which is k for topk_ids",
         to_string(x.shape()), to_string(topk_ids.shape()));
  }
  if (!topk_weights) {
    return;
  }
  check_compute_float(op, "topk_weights", *topk_weights);
  if (topk_weights->shape() != topk_ids.shape()) {
    fail(op, "topk_ids has shape {} but topk_weights has shape {}; pass a weight for each id", to_string(topk_ids.shape()),
         to_string(topk_weights->shape()));
  }
}

void check_scale(const array& scale, const array& x) {
  check_compute_float(op, "shared.scale", scale);
  Shape column = leading_of_rows(x);
  if (scale.shape() == column) {
    return;
  }
  column.push_back(1);
  if (scale.shape() != column) {
    fail(op, "x has shape {} but shared.scale has shape {}; it must be {} or {}, a factor for each row", to_string(x.shape()),
         to_string(scale.shape()), to_string(leading_of_rows(x)), to_string(column));
  }
}

void check_local(const LocalExperts& local, std::int64_t experts) {
  if (local.first < 0 || local.count < 0) {
    fail(op, "local_experts = ({}, {}) has a negative number; pass the first expert and how many there are", local.first,
         local.count);
  }
  if (local.count != experts) {
    fail(op, "local_experts = ({}, {}) but gate has {} experts; the count must be that of the weights", local.first, local.count,
         experts);
  }
}

}  // namespace

std::int64_t detail::count_experts(const ExpertWeights& weights) {
  return std::visit(
      [](const auto& of_kind) {
        if constexpr (std::is_same_v<std::decay_t<decltype(of_kind)>, array>) {
          return of_kind.dim(0);
        } else {
          return of_kind.shape().front();
        }
      },
      weights);
}

std::vector<std::int64_t> detail::load_expert_ids(const array& topk_ids, const MoeFfnOptions& options, std::int64_t experts) {
  const Shape leading = {experts};
  const IndexedOperand operand = {"gate", "topk_ids", leading, &topk_ids, options.missing};
  if (!options.local_experts) {
    return load_indices(op, operand, experts);
  }
  const LocalExperts& local = *options.local_experts;
  std::vector<std::int64_t> ids = load_indices(op, operand, std::numeric_limits<std::int64_t>::max());
  for (std::int64_t& id : ids) {
    const bool here = id >= local.first && id - local.first < local.count;
    id = here ? id - local.first : no_expert;
  }
  return ids;
}

namespace {

/// The arguments of a call.
struct MoeArguments {
  const array& x;
  const array& topk_ids;
  const std::optional<array>& topk_weights;
  BlockArguments experts;
  std::optional<BlockArguments> shared;
  const MoeFfnOptions& options;

  MoeArguments(const array& x_, const array& ids, const std::optional<array>& weights, const ExpertWeights& gate,
               const std::optional<ExpertWeights>& up, const ExpertWeights& down, const MoeFfnOptions& given)
      : x(x_),
        topk_ids(ids),
        topk_weights(weights),
        experts{.gate = gate,
                .up = up,
                .down = down,
                .gate_bias = given.gate_bias,
                .up_bias = given.up_bias,
                .down_bias = given.down_bias,
                .activation = given.activation,
                .order = given.gate_up_order,
                .shared = false},
        options(given) {
    if (given.shared) {
      const SharedExperts& s = *given.shared;
      shared.emplace(BlockArguments{.gate = s.gate,
                                    .up = s.up,
                                    .down = s.down,
                                    .gate_bias = s.gate_bias,
                                    .up_bias = s.up_bias,
                                    .down_bias = s.down_bias,
                                    .activation = s.activation.value_or(given.activation),
                                    .order = given.gate_up_order,
                                    .shared = true});
    }
  }
};

/// The arguments after all checks that need no values.
struct CheckedMoe {
  BlockSource experts;
  std::optional<BlockSource> shared;
  ResultType result;
};

CheckedMoe check(const MoeArguments& call) {
  const MoeFfnOptions& options = call.options;
  check_rows(call.x, call.topk_ids, call.topk_weights);
  check_integer(op, "topk_ids", call.topk_ids);
  check_stream(op, options.stream);
  if (!call.topk_weights && (options.shared || options.router_weight_on_input)) {
    fail(op, "{} needs topk_weights: without them the result is the slots of the routed experts; pass topk_weights",
         options.shared ? "shared" : "router_weight_on_input = true");
  }
  const std::int64_t H = call.x.dim(-1);
  CheckedMoe checked = {.experts = check_block(call.experts, H), .shared = {}, .result = {{}, call.x.dtype()}};
  if (call.shared) {
    checked.shared = check_block(*call.shared, H);
    if (options.shared->scale) {
      check_scale(*options.shared->scale, call.x);
    }
  }
  if (options.local_experts) {
    check_local(*options.local_experts, checked.experts.stacking.experts);
  }
  Shape& shape = checked.result.shape;
  shape = leading_of_rows(call.x);
  if (!call.topk_weights) {
    shape.push_back(call.topk_ids.dim(-1));
  }
  shape.push_back(H);
  checked_count(op, "the result", shape);
  return checked;
}

/// The arrays that the call reads.
std::vector<NamedOperand> operands_of(const MoeArguments& call, const CheckedMoe& checked) {
  std::vector<NamedOperand> operands = {
      {"x", &call.x}, {"topk_ids", &call.topk_ids}, {"topk_weights", address_of(call.topk_weights)}};
  add_operands(call.experts, checked.experts, operands);
  if (call.shared) {
    add_operands(*call.shared, *checked.shared, operands);
    operands.push_back({"shared.scale", address_of(call.options.shared->scale)});
  }
  return operands;
}

LoweredMoe lower(const MoeArguments& call) {
  const CheckedMoe checked = check(call);
  const array& x = call.x;
  const MoeFfnOptions& options = call.options;
  LoweredMoe lowered;
  lowered.ids = load_expert_ids(call.topk_ids, options, checked.experts.stacking.experts);
  MoeProblem& problem = lowered.problem;
  problem.H = x.dim(-1);
  problem.k = call.topk_ids.dim(-1);
  problem.tokens = checked_count(op, "x", leading_of_rows(x));
  problem.ids = lowered.ids;
  problem.x = lowered.contiguous_rows(x);
  if (call.topk_weights) {
    problem.topk_weights = MatrixBatch::of_rows(*call.topk_weights);
  }
  problem.router_weight_on_input = options.router_weight_on_input;
  lower_block(lowered, call.experts, checked.experts, lowered.ids, problem.experts);
  if (call.shared) {
    const std::int64_t only[] = {0};
    lower_block(lowered, *call.shared, *checked.shared, only, problem.shared.emplace());
    if (options.shared->scale) {
      problem.shared_scale = MatrixBatch(as_matrices(*options.shared->scale));
    }
  }
  const auto read = options.out ? operands_of(call, checked) : std::vector<NamedOperand>();
  lowered.result = make_result(op, checked.result.shape, x.dtype(), options.out, read);
  problem.y = lowered.result.mutable_bytes();
  problem.dtype = x.dtype();
  problem.slices = slices_for(options.precision, x.dtype());
  problem.threads = options.stream.threads;
  return lowered;
}

}  // namespace

LoweredMoe detail::lower_moe_ffn(const array& x, const array& topk_ids, const std::optional<array>& topk_weights,
                                 const ExpertWeights& gate, const std::optional<ExpertWeights>& up, const ExpertWeights& down,
                                 const MoeFfnOptions& options) {
  return lower(MoeArguments(x, topk_ids, topk_weights, gate, up, down, options));
}

void check_topk_ids(const array& topk_ids, const ExpertWeights& gate, const MoeFfnOptions& options) {
  std::ignore = load_expert_ids(topk_ids, options, count_experts(gate));
}

ResultType infer_moe_ffn(const array& x, const array& topk_ids, const std::optional<array>& topk_weights,
                         const ExpertWeights& gate, const std::optional<ExpertWeights>& up, const ExpertWeights& down,
                         const MoeFfnOptions& options) {
  return check(MoeArguments(x, topk_ids, topk_weights, gate, up, down, options)).result;
}

array moe_ffn(const array& x, const array& topk_ids, const std::optional<array>& topk_weights, const ExpertWeights& gate,
              const std::optional<ExpertWeights>& up, const ExpertWeights& down, const MoeFfnOptions& options) {
  const threads::NodeBinding binding(options.stream);
  LoweredMoe lowered = lower_moe_ffn(x, topk_ids, topk_weights, gate, up, down, options);
  const MoeProblem& problem = lowered.problem;
  if (problem.k == 0 && !problem.shared) {
    std::fill_n(lowered.result.mutable_bytes(), lowered.result.nbytes(), std::byte{0});  // these are the bits of +0
  } else if (lowered.result.size() != 0) {
    cpu::run(problem);
  }
  return std::move(lowered.result);
}

}  // namespace gqmm
