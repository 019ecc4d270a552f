#include "moe.hpp"

#include "arguments.hpp"
#include "arrays.hpp"
#include "define.hpp"
#include "gil.hpp"
#include "moe_operands.hpp"
#include "wrt.hpp"

#include <gqmm/activation.hpp>
#include <gqmm/moe.hpp>

#include <fmt/format.h>

#include <array>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace gqmm::python {
namespace {

void call_check_activation(nb::handle activation) {
  const std::string name = nb::cast<std::string>(activation[0]);
  check_activation(parse_activation(name.c_str(), activation), name);
}

nb::object call_activate(nb::handle gate, nb::handle up, nb::handle activation, nb::handle out, nb::handle stream) {
  constexpr const char* op = "activate";
  const Operand gate_operand = import_array({op, "gate"}, gate);
  const std::optional<Operand> up_operand = import_optional_array({op, "up"}, up);
  const Activation of_call = parse_activation(op, activation);
  const std::optional<Operand> out_operand =
      out.is_none() ? std::nullopt : std::optional(import_writable_array({op, "out"}, out));
  const ActivateOptions options{.stream = parse_stream(op, stream), .out = view_of(out_operand)};
  array result = without_gil([&] { return activate(gate_operand.view, view_of(up_operand), of_call, options); });
  return out_operand ? nb::borrow(out) : export_array(gate, std::move(result));
}

nb::object call_moe_combine(nb::handle slots, nb::handle topk_weights, nb::handle out, nb::handle stream) {
  constexpr const char* op = "moe_combine";
  const Operand slots_operand = import_array({op, "slots"}, slots);
  const Operand weights_operand = import_array({op, "topk_weights"}, topk_weights);
  const std::optional<Operand> out_operand =
      out.is_none() ? std::nullopt : std::optional(import_writable_array({op, "out"}, out));
  const MoeCombineOptions options{.stream = parse_stream(op, stream), .out = view_of(out_operand)};
  array result = without_gil([&] { return moe_combine(slots_operand.view, weights_operand.view, options); });
  return out_operand ? nb::borrow(out) : export_array(slots, std::move(result));
}

std::optional<LocalExperts> parse_local_experts(const char* op, nb::handle value) {
  if (value.is_none()) {
    return std::nullopt;
  }
  if ((!nb::isinstance<nb::tuple>(value) && !nb::isinstance<nb::list>(value)) || nb::len(value) != 2) {
    throw nb::type_error(fmt::format("[{}] local_experts: expected a tuple of two integers, the first expert and how many there "
                                     "are, got {}",
                                     op, nb::cast<std::string>(nb::repr(value)))
                             .c_str());
  }
  return LocalExperts{.first = parse_int({op, "local_experts[0]"}, value[0]),
                      .count = parse_int({op, "local_experts[1]"}, value[1])};
}

/// The arguments of moe_ffn and of its gradients, but out. It must be destroyed with the GIL held.
class MoeOperands {
 public:
  /// The arguments of one call, as Python gave them.
  struct Passed {
    nb::handle x;
    nb::handle topk_ids;
    nb::handle topk_weights;
    nb::handle gate;
    nb::handle up;
    nb::handle down;
    nb::handle activation;
    nb::handle gate_up_order;
    nb::handle gate_bias;
    nb::handle up_bias;
    nb::handle down_bias;
    nb::handle router_weight_on_input;
    nb::handle missing;
    nb::handle local_experts;
    nb::handle shared;
    nb::handle precision;
    nb::handle stream;
  };

  MoeOperands(const char* op, const Passed& p)
      : x_(import_array({op, "x"}, p.x)),
        ids_(import_array({op, "topk_ids"}, p.topk_ids)),
        weights_(import_optional_array({op, "topk_weights"}, p.topk_weights)),
        block_(op, routed_names, {p.gate, p.up, p.down, p.gate_bias, p.up_bias, p.down_bias}),
        shared_(p.shared.is_none() ? std::nullopt
                                   : std::optional<SharedOperands>(std::in_place, op, nb::borrow<nb::tuple>(p.shared))),
        options_{.activation = parse_activation(op, p.activation),
                 .gate_up_order = parse_gate_up_order(op, p.gate_up_order),
                 .gate_bias = view_of(block_.gate_bias),
                 .up_bias = view_of(block_.up_bias),
                 .down_bias = view_of(block_.down_bias),
                 .router_weight_on_input = parse_bool({op, "router_weight_on_input"}, p.router_weight_on_input),
                 .missing = parse_missing({op, "missing"}, p.missing),
                 .local_experts = parse_local_experts(op, p.local_experts),
                 .shared = shared_ ? std::optional(shared_->view()) : std::nullopt,
                 .precision = parse_precision(op, p.precision),
                 .stream = parse_stream(op, p.stream)} {}

  [[nodiscard]] const MoeFfnOptions& options() const noexcept { return options_; }
  /// Calls function(x, topk_ids, topk_weights, gate, up, down).
  template <class Function>
  auto call(const Function& function) const {
    return function(x_.view, ids_.view, view_of(weights_), view_of(block_.gate), block_.up_view(), view_of(block_.down));
  }

 private:
  Operand x_;
  Operand ids_;
  std::optional<Operand> weights_;
  BlockOperands block_;
  std::optional<SharedOperands> shared_;
  MoeFfnOptions options_;
};

nb::object call_moe_ffn(nb::handle x, nb::handle topk_ids, nb::handle topk_weights, nb::handle gate, nb::handle up,
                        nb::handle down, nb::handle activation, nb::handle gate_up_order, nb::handle gate_bias,
                        nb::handle up_bias, nb::handle down_bias, nb::handle router_weight_on_input, nb::handle missing,
                        nb::handle local_experts, nb::handle shared, nb::handle precision, nb::handle stream, nb::handle out) {
  constexpr const char* op = "moe_ffn";
  const MoeOperands operands(op, {x, topk_ids, topk_weights, gate, up, down, activation, gate_up_order, gate_bias, up_bias,
                                  down_bias, router_weight_on_input, missing, local_experts, shared, precision, stream});
  const std::optional<Operand> out_operand =
      out.is_none() ? std::nullopt : std::optional(import_writable_array({op, "out"}, out));
  MoeFfnOptions options = operands.options();
  options.out = view_of(out_operand);
  array result =
      without_gil([&] { return operands.call([&](const auto&... arguments) { return moe_ffn(arguments..., options); }); });
  return out_operand ? nb::borrow(out) : export_array(x, std::move(result));
}

// The gradients that moe_ffn_vjp has, by name.
constexpr std::array<const char*, 14> moe_gradient_names = {
    "x",         "topk_weights", "gate",    "gate.scales", "gate.biases", "gate_bias",   "up",
    "up.scales", "up.biases",    "up_bias", "down",        "down.scales", "down.biases", "down_bias"};

LayerWrt layer_wrt(const Wrt& wrt, const std::string& layer) {
  return {.scales = wrt.has(layer + ".scales"),
          .biases = wrt.has(layer + ".biases"),
          .weights = wrt.has(layer),
          .bias = wrt.has(layer + "_bias")};
}

std::optional<array>& gradient_of(LayerGradients& gradients, std::string_view part) {
  return part == ".scales"   ? gradients.scales
         : part == ".biases" ? gradients.biases
         : part == "_bias"   ? gradients.bias
                             : gradients.weights;
}

std::optional<array>& gradient_of(MoeFfnGradients& gradients, const std::string& name) {
  if (name == "x") {
    return gradients.x;
  }
  if (name == "topk_weights") {
    return gradients.topk_weights;
  }
  const auto rest = [&](std::string_view layer) { return std::string_view(name).substr(layer.size()); };
  return name.starts_with("gate") ? gradient_of(gradients.gate, rest("gate"))
         : name.starts_with("up") ? gradient_of(gradients.up, rest("up"))
                                  : gradient_of(gradients.down, rest("down"));
}

nb::dict call_moe_ffn_vjp(nb::handle dy, nb::handle x, nb::handle topk_ids, nb::handle topk_weights, nb::handle gate,
                          nb::handle up, nb::handle down, nb::handle activation, nb::handle gate_up_order, nb::handle gate_bias,
                          nb::handle up_bias, nb::handle down_bias, nb::handle router_weight_on_input, nb::handle missing,
                          nb::handle local_experts, nb::handle shared, nb::handle precision, nb::handle wrt_names,
                          nb::handle stream) {
  constexpr const char* op = "moe_ffn_vjp";
  const Wrt wrt(op, wrt_names, moe_gradient_names);
  const Operand dy_operand = import_array({op, "dy"}, dy);
  const MoeOperands operands(op, {x, topk_ids, topk_weights, gate, up, down, activation, gate_up_order, gate_bias, up_bias,
                                  down_bias, router_weight_on_input, missing, local_experts, shared, precision, stream});
  const MoeFfnVjpOptions options{.forward = operands.options(),
                                 .wrt = {.x = wrt.has("x"),
                                         .topk_weights = wrt.has("topk_weights"),
                                         .gate = layer_wrt(wrt, "gate"),
                                         .up = layer_wrt(wrt, "up"),
                                         .down = layer_wrt(wrt, "down")}};
  MoeFfnGradients gradients = without_gil([&] {
    return operands.call([&](const auto&... arguments) { return moe_ffn_vjp(dy_operand.view, arguments..., options); });
  });
  return wrt.to_dict(x, [&](const std::string& name) -> std::optional<array>& { return gradient_of(gradients, name); });
}

}  // namespace

void bind_moe(nb::module_& m) {
  define(m, "check_activation", &call_check_activation, "def check_activation(activation: tuple[object, ...], /) -> None");
  define(m, "activate", &call_activate,
         "def activate(gate: object, up: object, activation: tuple[object, ...], out: object, stream: object, /) -> typing.Any");
  define(m, "moe_combine", &call_moe_combine,
         "def moe_combine(slots: object, topk_weights: object, out: object, stream: object, /) -> typing.Any");
  define(m, "moe_ffn", &call_moe_ffn,
         "def moe_ffn(x: object, topk_ids: object, topk_weights: object, gate: object, up: object, down: object, "
         "activation: tuple[object, ...], gate_up_order: str, gate_bias: object, up_bias: object, down_bias: object, "
         "router_weight_on_input: bool, missing: str, local_experts: object, shared: tuple[object, ...] | None, precision: str, "
         "stream: object, out: object, /) -> typing.Any");
  define(m, "moe_ffn_vjp", &call_moe_ffn_vjp,
         "def moe_ffn_vjp(dy: object, x: object, topk_ids: object, topk_weights: object, gate: object, up: object, down: object, "
         "activation: tuple[object, ...], gate_up_order: str, gate_bias: object, up_bias: object, down_bias: object, "
         "router_weight_on_input: bool, missing: str, local_experts: object, shared: tuple[object, ...] | None, precision: str, "
         "wrt: object, stream: object, /) -> dict[str, typing.Any]");
}

}  // namespace gqmm::python
