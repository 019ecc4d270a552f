#include "moe_arguments.hpp"

#include "activation_arguments.hpp"
#include "expert_layer.hpp"

#include <gqmm/moe.hpp>

#include <mlx/utils.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/variant.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

namespace gqmm::mlx {
namespace {

using namespace nb::literals;

constexpr const char* op = "moe_ffn";

/// A layer as the package passes it: gqmm.QuantizedWeights, an array, or a tuple of w, scales, biases, global_scale, group_size,
/// bits and mode.
LinearArguments linear_of(const std::string& name, nb::handle passed, const OptionalArray& bias) {
  LinearArguments linear;
  linear.bias = bias;
  if (const mx::array* const dense = array_in(passed)) {
    linear.dense = *dense;
    return linear;
  }
  GivenWeights given;
  if (nb::isinstance<nb::tuple>(passed)) {
    const nb::tuple parts = nb::borrow<nb::tuple>(passed);
    given = {.w = parts[0],
             .scales = nb::cast<mx::array>(parts[1]),
             .biases = nb::cast<OptionalArray>(parts[2]),
             .global_scale = nb::cast<OptionalArray>(parts[3]),
             .transpose = true,
             .group_size = nb::cast<std::optional<int>>(parts[4]),
             .bits = nb::cast<std::optional<int>>(parts[5]),
             .mode = nb::cast<std::string>(parts[6])};
  } else if (is_quantized_weights(passed)) {
    given.w = nb::borrow(passed);
  } else {
    throw nb::type_error(
        (std::string("[") + op + "] " + name + ": expected gqmm.QuantizedWeights or an mlx.core.array, got " + class_of(passed))
            .c_str());
  }
  linear.quantized = arguments_of(op, given, std::nullopt);
  return linear;
}

/// The layers of a block and their biases. `prefix`: what errors put in front of their names.
FeedForwardArguments layers_of(const std::string& prefix, nb::handle gate, nb::handle up, nb::handle down,
                               const OptionalArray& gate_bias, const OptionalArray& up_bias, const OptionalArray& down_bias) {
  FeedForwardArguments layers;
  layers.gate = linear_of(prefix + "gate", gate, gate_bias);
  if (!up.is_none()) {
    layers.up = linear_of(prefix + "up", up, up_bias);
  } else if (up_bias) {
    throw std::invalid_argument(std::string("[") + op + "] " + prefix + "up_bias is given but " + prefix +
                                "up is not; leave it out");
  }
  layers.down = linear_of(prefix + "down", down, down_bias);
  return layers;
}

/// Shared experts as the package passes them: a tuple of gate, up, down, the three biases, the activation or None, and the scale.
SharedExpertsArguments shared_of(const nb::tuple& parts, const Activation& activation) {
  const auto array = [&](std::size_t i, const char* name) {
    return optional_array_in(op, (std::string("shared.") + name).c_str(), parts[i]);
  };
  SharedExpertsArguments shared;
  shared.layers =
      layers_of("shared.", parts[0], parts[1], parts[2], array(3, "gate_bias"), array(4, "up_bias"), array(5, "down_bias"));
  shared.layers.activation = parts[6].is_none() ? activation : activation_in(parts[6], op);
  shared.scale = array(7, "scale");
  return shared;
}

mx::array call_moe_ffn(const mx::array& x, const mx::array& topk_ids, const OptionalArray& topk_weights, nb::handle gate,
                       nb::handle up, nb::handle down, nb::handle activation, const std::string& gate_up_order,
                       const OptionalArray& gate_bias, const OptionalArray& up_bias, const OptionalArray& down_bias,
                       const std::string& missing, const std::optional<std::pair<std::int64_t, std::int64_t>>& local_experts,
                       const std::optional<std::string>& precision, const mx::StreamOrDevice& stream, bool router_weight_on_input,
                       const std::optional<nb::tuple>& shared) {
  ExpertLayerArguments arguments = {.x = x, .topk_ids = topk_ids, .topk_weights = topk_weights};
  arguments.experts = layers_of("", gate, up, down, gate_bias, up_bias, down_bias);
  arguments.experts.activation = activation_in(activation, op);
  if (shared) {
    arguments.shared = shared_of(*shared, arguments.experts.activation);
  }
  arguments.order = gate_up_order_from_name(gate_up_order, op);
  arguments.router_weight_on_input = router_weight_on_input;
  arguments.missing = missing_from_name(missing, op);
  if (local_experts) {
    arguments.local_experts = LocalExperts{.first = local_experts->first, .count = local_experts->second};
  }
  arguments.precision = precision_of(precision, op);
  arguments.stream = stream;
  return moe_ffn(arguments);
}

}  // namespace

void bind_moe_ffn(nb::module_& m) {
  m.def("moe_ffn", &call_moe_ffn, "x"_a, "topk_ids"_a, "topk_weights"_a.none(), "gate"_a, "up"_a.none(), "down"_a, "activation"_a,
        "gate_up_order"_a, "gate_bias"_a.none(), "up_bias"_a.none(), "down_bias"_a.none(), "missing"_a, "local_experts"_a.none(),
        "precision"_a.none(), "stream"_a.none(), "router_weight_on_input"_a = false, "shared"_a = nb::none(),
        "The layer of gqmm.mlx.moe_ffn, with the activation and the shared experts as tuples.");
}

}  // namespace gqmm::mlx
