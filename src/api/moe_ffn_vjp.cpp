// moe_ffn_vjp: the layer computed again in float32, and the gradients of its products. What lies between the products runs row by
// row on the call's threads; each sum is made by one thread, in a fixed order.
#include "api/check.hpp"
#include "api/floats.hpp"
#include "api/gradients.hpp"
#include "api/lower.hpp"
#include "arrays/contiguous.hpp"
#include "arrays/views.hpp"
#include "cpu/activation_gradient.hpp"
#include "cpu/each_row.hpp"
#include "cpu/float_environment.hpp"
#include "formats/float_types.hpp"
#include "plan/routing.hpp"
#include "threads/node_binding.hpp"

#include <gqmm/gradients.hpp>
#include <gqmm/infer.hpp>
#include <gqmm/moe.hpp>
#include <gqmm/ops.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <numeric>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace gqmm {

using namespace detail;

namespace {

constexpr std::string_view op = "moe_ffn_vjp";

/// Float32 rows of one matrix each, (rows, 1, columns).
array rows_of(const std::vector<float>& values, std::int64_t columns) {
  return array::borrow(values.data(), {static_cast<std::int64_t>(values.size()) / columns, 1, columns}, Dtype::float32);
}
array indices_of(const std::vector<std::int64_t>& values) {
  return array::borrow(values.data(), {static_cast<std::int64_t>(values.size())}, Dtype::int64);
}

bool wants_any(const LayerWrt& wrt) { return wrt.scales || wrt.biases || wrt.weights || wrt.bias; }

/// A linear layer of experts: its products and their gradients over pairs of a row and an expert.
class Layer {
  /// Calls one of the two functions with the weights.
  template <class Quantized, class Dense>
  auto visit(const Quantized& quantized, const Dense& dense) const {
    if (const auto* in_place = std::get_if<QuantizedWeights>(&weights_)) {
      return quantized(*in_place);
    }
    if (const auto* packed = std::get_if<PackedWeights>(&weights_)) {
      return quantized(*packed);
    }
    return dense(std::get<array>(weights_));
  }

 public:
  Layer(std::string_view name, const ExpertWeights& weights, const std::optional<array>& bias, const LayerWrt& wrt,
        const Stream& stream)
      : weights_(weights), bias_(bias), wrt_(wrt), stream_(stream) {
    const bool dense = std::holds_alternative<array>(weights);
    if (wrt.weights && !dense) {
      fail(op, "wrt has {} but it is quantized; ask for {}.scales or {}.biases", name, name, name);
    }
    if ((wrt.scales || wrt.biases) && !is_affine()) {
      fail(op, "wrt has {}.{} but {} has no gradient of {}", name, wrt.scales ? "scales" : "biases", name,
           dense ? "scales or biases, since it is dense" : "its scales, which are codes");
    }
    if (wrt.bias && !bias) {
      fail(op, "wrt has {}_bias but it is not given", name);
    }
  }

  [[nodiscard]] bool wants_any() const { return gqmm::wants_any(wrt_); }
  /// y (pairs, N) in float32.
  [[nodiscard]] std::vector<float> multiply(const array& x, const std::vector<std::int64_t>& lhs,
                                            const std::vector<std::int64_t>& experts) const {
    const array lhs_array = indices_of(lhs);
    const array rhs_array = indices_of(experts);
    const GatherQmmOptions options = {
        .lhs_indices = lhs_array, .rhs_indices = rhs_array, .precision = Precision::float32, .stream = stream_};
    std::vector<float> y = floats_of(
        visit([&](const auto& weights) { return gather_qmm(x, weights, options); },
              [&](const array& dense) {
                return gather_mm(x, transposed(dense), {.lhs_indices = lhs_array, .rhs_indices = rhs_array, .stream = stream_});
              }),
        stream_);
    if (bias_ && !experts.empty()) {
      const std::vector<float> bias = floats_of(*bias_, stream_);
      const std::size_t N = y.size() / experts.size();
      cpu::for_each_row(
          static_cast<std::int64_t>(experts.size()), static_cast<std::int64_t>(N), stream_.threads, [&](std::int64_t pair) {
            float* const row = y.data() + static_cast<std::size_t>(pair) * N;
            const float* const of_expert = bias.data() + static_cast<std::size_t>(experts[static_cast<std::size_t>(pair)]) * N;
            std::transform(row, row + N, of_expert, row, std::plus<>());
          });
    }
    return y;
  }

  /// The gradients of the layer that are wanted, and that of x, (rows, K) in float32; it is empty unless it is wanted. `dy`:
  /// (pairs, N).
  [[nodiscard]] std::vector<float> gradients(const std::vector<float>& dy, std::int64_t N, const array& x,
                                             const std::vector<std::int64_t>& lhs, const std::vector<std::int64_t>& experts,
                                             bool wants_x, LayerGradients& of_layer) const {
    const array lhs_array = indices_of(lhs);
    const array rhs_array = indices_of(experts);
    const array dy_rows = rows_of(dy, N);
    const GatherQmmVjpOptions options = {.lhs_indices = lhs_array,
                                         .rhs_indices = rhs_array,
                                         .wrt = {.x = wants_x, .scales = wrt_.scales, .biases = wrt_.biases},
                                         .stream = stream_};
    std::optional<array> d_x;
    if (wants_x || wrt_.scales || wrt_.biases || wrt_.weights) {
      visit(
          [&](const auto& weights) {
            QuantizedGradients found = gather_qmm_vjp(dy_rows, x, weights, options);
            d_x = std::move(found.x);
            of_layer.scales = std::move(found.scales);
            of_layer.biases = std::move(found.biases);
          },
          [&](const array& dense) {
            DenseGradients found = gather_mm_vjp(dy_rows, x, transposed(dense),
                                                 {.lhs_indices = lhs_array,
                                                  .rhs_indices = rhs_array,
                                                  .wrt = {.a = wants_x, .b = wrt_.weights},
                                                  .stream = stream_});
            d_x = std::move(found.a);
            if (found.b) {
              of_layer.weights = copy_row_major(transposed(*found.b));
            }
          });
    }
    if (wrt_.bias) {
      std::vector<float> sums(static_cast<std::size_t>(bias_->size()), 0.0F);
      const Routing routing = route(experts, bias_->size() / N, false);
      const auto hit = static_cast<std::int64_t>(routing.segments.size());
      cpu::for_each_row(hit, static_cast<std::int64_t>(dy.size()) / std::max<std::int64_t>(hit, 1), stream_.threads,
                        [&](std::int64_t i) {
                          const Segment& segment = routing.segments[static_cast<std::size_t>(i)];
                          float* const sum = sums.data() + segment.expert * N;
                          for (std::int64_t at = segment.first; at < segment.last; ++at) {
                            const float* const row = dy.data() + routing.order[static_cast<std::size_t>(at)] * N;
                            std::transform(sum, sum + N, row, sum, std::plus<>());
                          }
                        });
      of_layer.bias = rounded(sums, bias_->shape(), bias_->dtype(), stream_);
    }
    return d_x ? floats_of(*d_x, stream_) : std::vector<float>();
  }

 private:
  [[nodiscard]] bool is_affine() const {
    const auto* packed = std::get_if<PackedWeights>(&weights_);
    const auto* in_place = std::get_if<QuantizedWeights>(&weights_);
    return (packed != nullptr && packed->mode() == Mode::affine) || (in_place != nullptr && in_place->mode == Mode::affine);
  }
  const ExpertWeights& weights_;
  const std::optional<array>& bias_;
  const LayerWrt wrt_;
  const Stream& stream_;
};

/// Pairs of a row and an expert, whose results go to slots.
struct SlotPairs {
  std::vector<std::int64_t> rows;  // of x
  std::vector<std::int64_t> experts;
};

/// A feed-forward block, computed again for its gradients.
class Block {
 public:
  Block(Layer gate, std::optional<Layer> up, Layer down, const Activation& activation, GateUpOrder order, const Stream& stream)
      : gate_(gate), up_(up), down_(down), activation_(activation), order_(order), stream_(stream) {}

  /// Computes gate, up and h for the pairs. `x`: (rows, 1, H) float32, which must outlive the block.
  void compute(const array& x, SlotPairs pairs) {
    x_ = x;
    pairs_ = std::move(pairs);
    gates_ = gate_.multiply(x_, pairs_.rows, pairs_.experts);
    if (up_) {
      ups_ = up_->multiply(x_, pairs_.rows, pairs_.experts);
    } else if (is_gated(activation_)) {
      const std::vector<float> both = std::move(gates_);
      split(both, gates_, ups_);
    }
    const auto as_array = [](const std::vector<float>& values) {
      return array::borrow(values.data(), {static_cast<std::int64_t>(values.size())}, Dtype::float32);
    };
    h_ = floats_of(
        activate(as_array(gates_), ups_.empty() ? std::nullopt : std::optional(as_array(ups_)), activation_, {.stream = stream_}),
        stream_);
    slots_of_h_.resize(pairs_.experts.size());
    std::iota(slots_of_h_.begin(), slots_of_h_.end(), std::int64_t{0});
  }
  /// The results of the slots, (pairs, H) float32.
  [[nodiscard]] std::vector<float> slots() const {
    return pairs_.experts.empty() ? std::vector<float>() : down_.multiply(h_rows(), slots_of_h_, pairs_.experts);
  }

  /// The gradients of the layers, and that of x, (rows, H) float32, from those of the slots, (pairs, H). The last is empty unless
  /// it is wanted.
  std::vector<float> gradients(const std::vector<float>& d_slots, std::int64_t H, bool wants_x, LayerGradients& gate,
                               LayerGradients& up, LayerGradients& down) const {
    const bool wants_h = wants_x || gate_.wants_any() || (up_ && up_->wants_any());
    const std::vector<float> dh = down_.gradients(d_slots, H, h_rows(), slots_of_h_, pairs_.experts, wants_h, down);
    if (!wants_h) {
      return {};
    }
    const cpu::ActivationGradients d = cpu::activation_gradients(activation_, gates_, ups_, dh, stream_.threads);
    if (!up_ && is_gated(activation_)) {
      return gate_.gradients(joined(d.gate, d.up), 2 * I(), x_, pairs_.rows, pairs_.experts, wants_x, gate);
    }
    std::vector<float> d_x = gate_.gradients(d.gate, I(), x_, pairs_.rows, pairs_.experts, wants_x, gate);
    if (up_) {
      add(d_x, up_->gradients(d.up, I(), x_, pairs_.rows, pairs_.experts, wants_x, up), stream_);
    }
    return d_x;
  }

 private:
  [[nodiscard]] std::int64_t I() const { return static_cast<std::int64_t>(h_.size() / pairs_.experts.size()); }
  [[nodiscard]] array h_rows() const { return rows_of(h_, I()); }
  /// Where element `i` of gate, or of up, lies in a row of the layer that has both.
  [[nodiscard]] std::size_t at(std::size_t i, bool up, std::size_t width) const {
    if (order_ == GateUpOrder::interleaved) {
      return 2 * i + (up ? 1 : 0);
    }
    return i + (up != (order_ == GateUpOrder::up_gate) ? width : 0);
  }
  /// Calls work(pair, width) for each pair's row of arrays with this number of elements.
  template <class Work>
  void for_each_pair(std::size_t elements, const Work& work) const {
    const std::size_t pairs = pairs_.experts.size();
    const std::size_t width = pairs == 0 ? 0 : elements / pairs;
    cpu::for_each_row(static_cast<std::int64_t>(pairs), static_cast<std::int64_t>(2 * width), stream_.threads,
                      [&](std::int64_t pair) { work(static_cast<std::size_t>(pair), width); });
  }
  void split(const std::vector<float>& both, std::vector<float>& gates, std::vector<float>& ups) const {
    gates.assign(both.size() / 2, 0.0F);
    ups = gates;
    for_each_pair(gates.size(), [&](std::size_t pair, std::size_t width) {
      const float* const row = both.data() + pair * 2 * width;
      for (std::size_t i = 0; i < width; ++i) {
        gates[pair * width + i] = row[at(i, false, width)];
        ups[pair * width + i] = row[at(i, true, width)];
      }
    });
  }
  [[nodiscard]] std::vector<float> joined(const std::vector<float>& gates, const std::vector<float>& ups) const {
    std::vector<float> both(2 * gates.size());
    for_each_pair(gates.size(), [&](std::size_t pair, std::size_t width) {
      float* const row = both.data() + pair * 2 * width;
      for (std::size_t i = 0; i < width; ++i) {
        row[at(i, false, width)] = gates[pair * width + i];
        row[at(i, true, width)] = ups[pair * width + i];
      }
    });
    return both;
  }

  Layer gate_;
  std::optional<Layer> up_;
  Layer down_;
  Activation activation_;
  GateUpOrder order_;
  const Stream& stream_;
  array x_;
  SlotPairs pairs_;
  std::vector<float> gates_;
  std::vector<float> ups_;
  std::vector<float> h_;
  std::vector<std::int64_t> slots_of_h_;
};

/// Zeros for the gradients of a layer that no pair uses.
void fill_with_zeros(LayerGradients& gradients, const ExpertWeights& weights, const std::optional<array>& bias,
                     const LayerWrt& wrt) {
  const auto zeros = [](const array& like) {
    array result = array::empty(like.shape(), like.dtype());
    std::fill_n(result.mutable_bytes(), result.nbytes(), std::byte{0});  // these are the bits of +0
    return result;
  };
  const auto* in_place = std::get_if<QuantizedWeights>(&weights);
  std::optional<QuantizedWeights> unpacked;
  if (const auto* packed = std::get_if<PackedWeights>(&weights); packed != nullptr && (wrt.scales || wrt.biases)) {
    unpacked = unpack(*packed);
    in_place = &*unpacked;
  }
  if (wrt.scales) {
    gradients.scales = zeros(in_place->scales);
  }
  if (wrt.biases) {
    gradients.biases = zeros(*in_place->biases);
  }
  if (wrt.weights) {
    gradients.weights = zeros(std::get<array>(weights));
  }
  if (wrt.bias) {
    gradients.bias = zeros(*bias);
  }
}

/// Calls function(), which checks arguments of the forward. Its messages get the name of this operator.
template <class Function>
auto checking(const Function& function) {
  try {
    return function();
  } catch (const std::invalid_argument& error) {
    const std::string text = error.what();
    constexpr std::string_view prefix = "[moe_ffn] ";
    fail(op, "{}", text.starts_with(prefix) ? text.substr(prefix.size()) : text);
  }
}

}  // namespace

MoeFfnGradients moe_ffn_vjp(const array& dy, const array& x, const array& topk_ids, const std::optional<array>& topk_weights,
                            const ExpertWeights& gate, const std::optional<ExpertWeights>& up, const ExpertWeights& down,
                            const MoeFfnVjpOptions& options) {
  // Conversions and sums between the calls below must not depend on the caller's settings.
  const cpu::FloatEnvironment environment;
  const MoeFfnOptions& forward = options.forward;
  const MoeFfnWrt& wrt = options.wrt;
  const Stream& stream = forward.stream;
  const threads::NodeBinding binding(stream);
  check_dy(op, dy, checking([&] { return infer_moe_ffn(x, topk_ids, topk_weights, gate, up, down, forward); }).shape);
  if (!wrt.x && !wrt.topk_weights && !wants_any(wrt.gate) && !wants_any(wrt.up) && !wants_any(wrt.down)) {
    fail(op, "wrt is empty; ask for at least one gradient");
  }
  if (wrt.topk_weights && !topk_weights) {
    fail(op, "wrt has topk_weights but they are not given");
  }
  if (wants_any(wrt.up) && !up) {
    fail(op, "wrt has a gradient of up but up is not given");
  }
  const Layer gate_layer("gate", gate, forward.gate_bias, wrt.gate, stream);
  const std::optional<Layer> up_layer =
      up ? std::optional<Layer>(std::in_place, "up", *up, forward.up_bias, wrt.up, stream) : std::nullopt;
  const Layer down_layer("down", down, forward.down_bias, wrt.down, stream);
  const std::vector<std::int64_t> ids = checking([&] { return load_expert_ids(topk_ids, forward, count_experts(gate)); });

  const std::int64_t H = x.dim(-1);
  const std::int64_t k = topk_ids.dim(-1);
  const std::int64_t tokens = x.size() / H;
  const auto width = static_cast<std::size_t>(H);
  const std::vector<float> x_values = floats_of(x, stream);
  const std::vector<float> dy_values = floats_of(dy, stream);
  const std::vector<float> weights = topk_weights ? floats_of(*topk_weights, stream) : std::vector<float>(ids.size(), 1.0F);
  std::vector<std::size_t> slots;  // those that have an expert
  SlotPairs pairs;
  for (std::size_t slot = 0; slot < ids.size(); ++slot) {
    if (ids[slot] != no_expert) {
      slots.push_back(slot);
      pairs.rows.push_back(forward.router_weight_on_input ? static_cast<std::int64_t>(slots.size()) - 1
                                                          : static_cast<std::int64_t>(slot) / k);
      pairs.experts.push_back(ids[slot]);
    }
  }
  const auto token_of = [&](std::size_t slot) { return slot / static_cast<std::size_t>(k); };
  // Calls work(i) for each of `slots`.
  const auto for_each_slot = [&](const auto& work) {
    cpu::for_each_row(static_cast<std::int64_t>(slots.size()), H, stream.threads,
                      [&](std::int64_t i) { work(static_cast<std::size_t>(i)); });
  };

  // What the experts see: x, or for each slot x times its weight, rounded as the forward rounds it.
  std::vector<float> input = x_values;
  if (forward.router_weight_on_input) {
    input.resize(slots.size() * width);
    for_each_slot([&](std::size_t i) {
      const float* const of_token = x_values.data() + token_of(slots[i]) * width;
      for (std::size_t n = 0; n < width; ++n) {
        std::byte memory[sizeof(float)];
        store_float(memory, x.dtype(), of_token[n] * weights[slots[i]]);
        input[i * width + n] = load_float(memory, x.dtype());
      }
    });
  }
  // The gradients of the slots.
  std::vector<float> d_slots(slots.size() * width);
  for_each_slot([&](std::size_t i) {
    const std::size_t slot = slots[i];
    const float* const row = dy_values.data() + (topk_weights ? token_of(slot) : slot) * width;
    const float weight = topk_weights && !forward.router_weight_on_input ? weights[slot] : 1.0F;
    std::transform(row, row + width, d_slots.data() + i * width, [=](float v) { return weight * v; });
  });

  MoeFfnGradients gradients;
  std::vector<float> d_x(x_values.size(), 0.0F);
  std::vector<float> d_weights(ids.size(), 0.0F);
  if (slots.empty()) {
    fill_with_zeros(gradients.gate, gate, forward.gate_bias, wrt.gate);
    if (up) {
      fill_with_zeros(gradients.up, *up, forward.up_bias, wrt.up);
    }
    fill_with_zeros(gradients.down, down, forward.down_bias, wrt.down);
  } else {
    Block block(gate_layer, up_layer, down_layer, forward.activation, forward.gate_up_order, stream);
    const array input_rows = rows_of(input, H);
    block.compute(input_rows, pairs);
    const bool wants_input = wrt.x || (wrt.topk_weights && forward.router_weight_on_input);
    const std::vector<float> d_input = block.gradients(d_slots, H, wants_input, gradients.gate, gradients.up, gradients.down);
    if (!forward.router_weight_on_input) {
      if (wrt.x) {
        d_x = d_input;
      }
      if (wrt.topk_weights) {
        const std::vector<float> results = block.slots();
        for_each_slot([&](std::size_t i) {
          const float* const row = dy_values.data() + token_of(slots[i]) * width;
          d_weights[slots[i]] = std::inner_product(row, row + width, results.data() + i * width, 0.0F);
        });
      }
    } else if (wants_input) {
      for_each_slot([&](std::size_t i) {
        const float* const of_token = x_values.data() + token_of(slots[i]) * width;
        const float* const row = d_input.data() + i * width;
        d_weights[slots[i]] = std::inner_product(row, row + width, of_token, 0.0F);
      });
      for (std::size_t i = 0; i < slots.size(); ++i) {  // slots of one token follow each other
        float* const sum = d_x.data() + token_of(slots[i]) * width;
        const float* const row = d_input.data() + i * width;
        std::transform(sum, sum + width, row, sum, [w = weights[slots[i]]](float s, float v) { return s + w * v; });
      }
    }
  }
  if (forward.shared && wrt.x && tokens != 0) {
    const SharedExperts& s = *forward.shared;
    const Layer shared_gate("shared.gate", s.gate, s.gate_bias, {}, stream);
    const std::optional<Layer> shared_up =
        s.up ? std::optional<Layer>(std::in_place, "shared.up", *s.up, s.up_bias, LayerWrt{}, stream) : std::nullopt;
    const Layer shared_down("shared.down", s.down, s.down_bias, {}, stream);
    Block block(shared_gate, shared_up, shared_down, s.activation.value_or(forward.activation), forward.gate_up_order, stream);
    SlotPairs all = {.rows = std::vector<std::int64_t>(static_cast<std::size_t>(tokens)),
                     .experts = std::vector<std::int64_t>(static_cast<std::size_t>(tokens), 0)};
    std::iota(all.rows.begin(), all.rows.end(), std::int64_t{0});
    const array rows = rows_of(x_values, H);
    block.compute(rows, std::move(all));
    std::vector<float> d_result = dy_values;
    if (s.scale) {
      const std::vector<float> scale = floats_of(*s.scale, stream);
      for (std::size_t i = 0; i < d_result.size(); ++i) {
        d_result[i] *= scale[i / width];
      }
    }
    LayerGradients unused;
    add(d_x, block.gradients(d_result, H, true, unused, unused, unused), stream);
  }
  if (wrt.x) {
    gradients.x = rounded(d_x, x.shape(), x.dtype(), stream);
  }
  if (wrt.topk_weights) {
    gradients.topk_weights = rounded(d_weights, topk_weights->shape(), topk_weights->dtype(), stream);
  }
  return gradients;
}

}  // namespace gqmm
