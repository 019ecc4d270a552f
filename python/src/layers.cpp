#include "layers.hpp"

#include "arguments.hpp"
#include "arrays.hpp"
#include "define.hpp"
#include "gil.hpp"
#include "weights.hpp"

#include <gqmm/attention.hpp>
#include <gqmm/convolution.hpp>
#include <gqmm/gated_delta.hpp>
#include <gqmm/norm.hpp>
#include <gqmm/rope.hpp>
#include <gqmm/softmax.hpp>
#include <gqmm/ssm.hpp>

#include <fmt/format.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace gqmm::python {
namespace {

std::optional<Operand> import_out(ArgumentName name, nb::handle out) {
  return out.is_none() ? std::nullopt : std::optional(import_writable_array(name, out));
}

/// A mask as Python gave it. It must be destroyed with the GIL held.
class ImportedMask {
 public:
  ImportedMask(const char* op, nb::handle mask) {
    if (mask.is_none()) {
      return;
    }
    if (!nb::isinstance<nb::str>(mask)) {
      operand_ = import_array({op, "mask"}, mask);
      mask_ = operand_->view;
      return;
    }
    const std::string name = nb::cast<std::string>(mask);
    if (name != "causal") {
      throw std::invalid_argument(fmt::format("[{}] mask = \"{}\" is unknown; use \"causal\", an array or None", op, name));
    }
    mask_ = CausalMask();
  }
  [[nodiscard]] const AttentionMask& mask() const noexcept { return mask_; }

 private:
  std::optional<Operand> operand_;
  AttentionMask mask_;
};

nb::object call_attention(nb::handle q, nb::handle k, nb::handle v, nb::handle scale, nb::handle mask, nb::handle sinks,
                          nb::handle origin, nb::handle out, nb::handle stream) {
  constexpr const char* op = "scaled_dot_product_attention";
  const Operand q_operand = import_array({op, "q"}, q);
  const Operand k_operand = import_array({op, "k"}, k);
  const Operand v_operand = import_array({op, "v"}, v);
  const ImportedMask passed(op, mask);
  const std::optional<Operand> sinks_operand = import_optional_array({op, "sinks"}, sinks);
  const std::optional<Operand> origin_operand = import_optional_array({op, "origin"}, origin);
  const std::optional<Operand> out_operand = import_out({op, "out"}, out);
  const float factor = parse_float({op, "scale"}, scale);
  const AttentionOptions options{.mask = passed.mask(),
                                 .sinks = view_of(sinks_operand),
                                 .origin = view_of(origin_operand),
                                 .stream = parse_stream(op, stream),
                                 .out = view_of(out_operand)};
  array result =
      without_gil([&] { return scaled_dot_product_attention(q_operand.view, k_operand.view, v_operand.view, factor, options); });
  return out_operand ? nb::borrow(out) : export_array(q, std::move(result));
}

/// Quantized keys or values, (w, scales, biases), with the settings of the call.
WeightOperands import_heads(ArgumentName name, nb::handle heads, nb::handle group_size, nb::handle bits) {
  const bool is_sequence = nb::isinstance<nb::tuple>(heads) || nb::isinstance<nb::list>(heads);
  if (!is_sequence || nb::len(heads) != 3) {
    const std::string got =
        is_sequence ? fmt::format("{} elements", nb::len(heads)) : nb::cast<std::string>(nb::str(heads.type().attr("__name__")));
    throw nb::type_error(fmt::format("[{}] {}: expected (w, scales, biases), got {}", name.op, name.name, got).c_str());
  }
  const nb::object w = heads[0];
  const nb::object scales = heads[1];
  const nb::object biases = heads[2];
  // Errors call the arrays w, scales and biases. The argument's name before that tells keys from values.
  const auto named = [&](const std::string& text) {
    const std::string prefix = fmt::format("[{}] ", name.op);
    return fmt::format("{}{}: {}", prefix, name.name, text.starts_with(prefix) ? text.substr(prefix.size()) : text);
  };
  try {
    return import_quantized_weights(
        name.op, {.w = w, .scales = scales, .biases = biases, .group_size = group_size, .bits = bits, .mode = Py_None});
  } catch (const nb::builtin_exception& error) {
    throw nb::builtin_exception(error.type(), named(error.what()).c_str());
  } catch (const std::invalid_argument& error) {
    throw std::invalid_argument(named(error.what()));
  }
}

nb::object call_quantized_attention(nb::handle q, nb::handle q_keys, nb::handle q_values, nb::handle scale, nb::handle mask,
                                    nb::handle origin, nb::handle group_size, nb::handle bits, nb::handle out,
                                    nb::handle stream) {
  constexpr const char* op = "quantized_scaled_dot_product_attention";
  const Operand q_operand = import_array({op, "q"}, q);
  const WeightOperands keys = import_heads({op, "q_keys"}, q_keys, group_size, bits);
  const WeightOperands values = import_heads({op, "q_values"}, q_values, group_size, bits);
  const ImportedMask passed(op, mask);
  const std::optional<Operand> origin_operand = import_optional_array({op, "origin"}, origin);
  const std::optional<Operand> out_operand = import_out({op, "out"}, out);
  const float factor = parse_float({op, "scale"}, scale);
  const QuantizedAttentionOptions options{
      .mask = passed.mask(), .origin = view_of(origin_operand), .stream = parse_stream(op, stream), .out = view_of(out_operand)};
  array result = without_gil(
      [&] { return quantized_scaled_dot_product_attention(q_operand.view, keys.weights, values.weights, factor, options); });
  return out_operand ? nb::borrow(out) : export_array(q, std::move(result));
}

nb::object call_rms_norm(nb::handle x, nb::handle weight, nb::handle eps, nb::handle out, nb::handle stream) {
  constexpr const char* op = "rms_norm";
  const Operand x_operand = import_array({op, "x"}, x);
  const std::optional<Operand> weight_operand = import_optional_array({op, "weight"}, weight);
  const std::optional<Operand> out_operand = import_out({op, "out"}, out);
  const float epsilon = parse_float({op, "eps"}, eps);
  const NormOptions options{.stream = parse_stream(op, stream), .out = view_of(out_operand)};
  array result = without_gil([&] { return rms_norm(x_operand.view, view_of(weight_operand), epsilon, options); });
  return out_operand ? nb::borrow(out) : export_array(x, std::move(result));
}

nb::object call_layer_norm(nb::handle x, nb::handle weight, nb::handle bias, nb::handle eps, nb::handle out, nb::handle stream) {
  constexpr const char* op = "layer_norm";
  const Operand x_operand = import_array({op, "x"}, x);
  const std::optional<Operand> weight_operand = import_optional_array({op, "weight"}, weight);
  const std::optional<Operand> bias_operand = import_optional_array({op, "bias"}, bias);
  const std::optional<Operand> out_operand = import_out({op, "out"}, out);
  const float epsilon = parse_float({op, "eps"}, eps);
  const NormOptions options{.stream = parse_stream(op, stream), .out = view_of(out_operand)};
  array result =
      without_gil([&] { return layer_norm(x_operand.view, view_of(weight_operand), view_of(bias_operand), epsilon, options); });
  return out_operand ? nb::borrow(out) : export_array(x, std::move(result));
}

nb::object call_softmax(nb::handle x, nb::handle axes, nb::handle out, nb::handle stream) {
  constexpr const char* op = "softmax";
  const Operand x_operand = import_array({op, "x"}, x);
  std::vector<int> dimensions;
  if (axes.is_none()) {
    for (int axis = 0; axis < x_operand.view.rank(); ++axis) {
      dimensions.push_back(axis);
    }
  } else {
    for (const nb::handle axis : nb::borrow<nb::tuple>(axes)) {
      dimensions.push_back(parse_int({op, "axis"}, axis));
    }
  }
  const std::optional<Operand> out_operand = import_out({op, "out"}, out);
  const SoftmaxOptions options{.stream = parse_stream(op, stream), .out = view_of(out_operand)};
  array result = without_gil([&] { return softmax(x_operand.view, dimensions, options); });
  return out_operand ? nb::borrow(out) : export_array(x, std::move(result));
}

nb::object call_rope(nb::handle x, nb::handle dims, nb::handle traditional, nb::handle base, nb::handle scale, nb::handle offset,
                     nb::handle freqs, nb::handle out, nb::handle stream) {
  constexpr const char* op = "rope";
  const Operand x_operand = import_array({op, "x"}, x);
  const std::optional<Operand> freqs_operand = import_optional_array({op, "freqs"}, freqs);
  const std::optional<Operand> out_operand = import_out({op, "out"}, out);
  std::optional<Operand> offset_operand;
  RopeOptions options{.traditional = parse_bool({op, "traditional"}, traditional),
                      .base = base.is_none() ? std::nullopt : std::optional(parse_float({op, "base"}, base)),
                      .scale = parse_float({op, "scale"}, scale),
                      .freqs = view_of(freqs_operand),
                      .stream = parse_stream(op, stream),
                      .out = view_of(out_operand)};
  if (PyLong_Check(offset.ptr()) != 0 && PyBool_Check(offset.ptr()) == 0) {
    std::int64_t number = 0;
    if (!nb::try_cast(offset, number)) {
      throw std::invalid_argument(fmt::format("[{}] offset does not fit 64 bits; pass the position of the first row", op));
    }
    options.offset = number;
  } else {
    offset_operand = import_array({op, "offset"}, offset);
    options.offset = offset_operand->view;
  }
  const int count = parse_int({op, "dims"}, dims);
  array result = without_gil([&] { return rope(x_operand.view, count, options); });
  return out_operand ? nb::borrow(out) : export_array(x, std::move(result));
}

nb::object call_depthwise_conv1d(nb::handle x, nb::handle weight, nb::handle stride, nb::handle padding_before,
                                 nb::handle padding_after, nb::handle dilation, nb::handle out, nb::handle stream) {
  constexpr const char* op = "depthwise_conv1d";
  const Operand x_operand = import_array({op, "x"}, x);
  const Operand weight_operand = import_array({op, "weight"}, weight);
  const std::optional<Operand> out_operand = import_out({op, "out"}, out);
  const DepthwiseConv1dOptions options{.stride = parse_int({op, "stride"}, stride),
                                       .padding_before = parse_int({op, "padding"}, padding_before),
                                       .padding_after = parse_int({op, "padding"}, padding_after),
                                       .dilation = parse_int({op, "dilation"}, dilation),
                                       .stream = parse_stream(op, stream),
                                       .out = view_of(out_operand)};
  array result = without_gil([&] { return depthwise_conv1d(x_operand.view, weight_operand.view, options); });
  return out_operand ? nb::borrow(out) : export_array(x, std::move(result));
}

/// What recurrences over tokens take beside their operands, as Python gave it. It must be destroyed with the GIL held.
class RecurrenceArguments {
 public:
  RecurrenceArguments(const char* op, nb::handle state, nb::handle mask, nb::handle out, nb::handle state_out, nb::handle stream)
      : state_(import_optional_array({op, "state"}, state)),
        mask_(import_optional_array({op, "mask"}, mask)),
        out_(import_out({op, "out"}, out)),
        state_out_(import_out({op, "state_out"}, state_out)),
        out_object_(out),
        state_out_object_(state_out),
        stream_(parse_stream(op, stream)) {}

  template <class Options>
  [[nodiscard]] Options options() const {
    Options options;
    options.state = view_of(state_);
    options.mask = view_of(mask_);
    options.stream = stream_;
    options.out = view_of(out_);
    options.state_out = view_of(state_out_);
    return options;
  }

  /// y and the state: the objects that were given for them, or arrays of the library of `like`.
  template <class Result>
  [[nodiscard]] nb::tuple results(nb::handle like, Result result) const {
    return nb::make_tuple(out_ ? nb::borrow(out_object_) : export_array(like, std::move(result.y)),
                          state_out_ ? nb::borrow(state_out_object_) : export_array(like, std::move(result.state)));
  }

 private:
  std::optional<Operand> state_;
  std::optional<Operand> mask_;
  std::optional<Operand> out_;
  std::optional<Operand> state_out_;
  nb::handle out_object_;
  nb::handle state_out_object_;
  Stream stream_;
};

nb::tuple call_gated_delta_update(nb::handle q, nb::handle k, nb::handle v, nb::handle g, nb::handle beta, nb::handle state,
                                  nb::handle mask, nb::handle out, nb::handle state_out, nb::handle stream) {
  constexpr const char* op = "gated_delta_update";
  const Operand q_operand = import_array({op, "q"}, q);
  const Operand k_operand = import_array({op, "k"}, k);
  const Operand v_operand = import_array({op, "v"}, v);
  const Operand g_operand = import_array({op, "g"}, g);
  const Operand beta_operand = import_array({op, "beta"}, beta);
  const RecurrenceArguments arguments(op, state, mask, out, state_out, stream);
  const auto options = arguments.options<GatedDeltaOptions>();
  return arguments.results(q, without_gil([&] {
                             return gated_delta_update(q_operand.view, k_operand.view, v_operand.view, g_operand.view,
                                                       beta_operand.view, options);
                           }));
}

nb::tuple call_ssm_update(nb::handle hidden_states, nb::handle A_log, nb::handle B, nb::handle C, nb::handle D, nb::handle dt,
                          nb::handle dt_bias, nb::handle state, nb::handle smallest, nb::handle largest, nb::handle mask,
                          nb::handle lengths, nb::handle out, nb::handle state_out, nb::handle stream) {
  constexpr const char* op = "ssm_update";
  const Operand x_operand = import_array({op, "hidden_states"}, hidden_states);
  const Operand A_log_operand = import_array({op, "A_log"}, A_log);
  const Operand B_operand = import_array({op, "B"}, B);
  const Operand C_operand = import_array({op, "C"}, C);
  const Operand D_operand = import_array({op, "D"}, D);
  const Operand dt_operand = import_array({op, "dt"}, dt);
  const Operand dt_bias_operand = import_array({op, "dt_bias"}, dt_bias);
  const std::optional<Operand> lengths_operand = import_optional_array({op, "lengths"}, lengths);
  const RecurrenceArguments arguments(op, state, mask, out, state_out, stream);
  auto options = arguments.options<SsmOptions>();
  options.time_step_limit = {.smallest = parse_float({op, "time_step_limit[0]"}, smallest),
                             .largest = parse_float({op, "time_step_limit[1]"}, largest)};
  options.lengths = view_of(lengths_operand);
  return arguments.results(hidden_states, without_gil([&] {
                             return ssm_update(x_operand.view, A_log_operand.view, B_operand.view, C_operand.view, D_operand.view,
                                               dt_operand.view, dt_bias_operand.view, options);
                           }));
}

}  // namespace

void bind_layers(nb::module_& m) {
  define(m, "rms_norm", &call_rms_norm,
         "def rms_norm(x: object, weight: object, eps: float, out: object, stream: object, /) -> typing.Any");
  define(m, "layer_norm", &call_layer_norm,
         "def layer_norm(x: object, weight: object, bias: object, eps: float, out: object, stream: object, /) -> typing.Any");
  define(m, "softmax", &call_softmax,
         "def softmax(x: object, axes: tuple[int, ...] | None, out: object, stream: object, /) -> typing.Any");
  define(m, "rope", &call_rope,
         "def rope(x: object, dims: int, traditional: bool, base: float | None, scale: float, offset: object, freqs: object, "
         "out: object, stream: object, /) -> typing.Any");
  define(m, "depthwise_conv1d", &call_depthwise_conv1d,
         "def depthwise_conv1d(x: object, weight: object, stride: int, padding_before: int, padding_after: int, dilation: int, "
         "out: object, stream: object, /) -> typing.Any");
  define(m, "gated_delta_update", &call_gated_delta_update,
         "def gated_delta_update(q: object, k: object, v: object, g: object, beta: object, state: object, mask: object, "
         "out: object, state_out: object, stream: object, /) -> tuple[typing.Any, typing.Any]");
  define(m, "ssm_update", &call_ssm_update,
         "def ssm_update(hidden_states: object, A_log: object, B: object, C: object, D: object, dt: object, dt_bias: object, "
         "state: object, smallest: float, largest: float, mask: object, lengths: object, out: object, state_out: object, "
         "stream: object, /) -> tuple[typing.Any, typing.Any]");
  define(m, "scaled_dot_product_attention", &call_attention,
         "def scaled_dot_product_attention(q: object, k: object, v: object, scale: float, mask: object, sinks: object, "
         "origin: object, out: object, stream: object, /) -> typing.Any");
  define(m, "quantized_scaled_dot_product_attention", &call_quantized_attention,
         "def quantized_scaled_dot_product_attention(q: object, q_keys: object, q_values: object, scale: float, mask: object, "
         "origin: object, group_size: int, bits: int, out: object, stream: object, /) -> typing.Any");
}

}  // namespace gqmm::python
