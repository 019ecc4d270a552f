#include "layer_inputs.hpp"

#include "arrays.hpp"

#include <string>
#include <utility>

namespace gqmm::mlx {
namespace {

constexpr const char* op = "moe_ffn";

/// The arrays that a packed copy is of.
std::vector<mx::array> packable(const QuantizedArguments& q) {
  std::vector<mx::array> weights = {q.w, q.scales};
  if (q.biases) {
    weights.push_back(*q.biases);
  }
  return weights;
}

// --- From arguments to inputs ------------------------------------------------------------------------------------------------

void add_if(std::vector<mx::array>& inputs, const std::optional<mx::array>& a) {
  if (a) {
    inputs.push_back(*a);
  }
}

LinearSettings add(std::vector<mx::array>& inputs, const LinearArguments& linear) {
  LinearSettings settings;
  if (linear.quantized) {
    const QuantizedArguments& q = *linear.quantized;
    const QuantizedWeights resolved =
        QuantizedWeights{.mode = mode_from_name(q.mode, op), .bits = q.bits, .group_size = q.group_size, .transpose = q.transpose}
            .resolved(op);
    settings.quantized = true;
    settings.weights = {
        .mode = resolved.mode, .bits = *resolved.bits, .group_size = *resolved.group_size, .transpose = q.transpose};
    settings.has_biases = q.biases.has_value();
    settings.has_global_scale = q.global_scale.has_value();
    const std::vector<mx::array> weights = packable(q);
    settings.parameters = PackedParameters::of_parts(weights);
    if (settings.parameters && !settings.weights.are_of(settings.parameters->weights())) {
      settings.parameters = nullptr;
    }
    if (!settings.parameters) {
      if (q.find_packed_copy && q.transpose) {
        settings.copy = q.find_packed_copy(weights, settings.weights);
      }
      inputs.insert(inputs.end(), weights.begin(), weights.end());
    }
    add_if(inputs, q.global_scale);
  } else {
    inputs.push_back(*linear.dense);
  }
  settings.has_bias = linear.bias.has_value();
  add_if(inputs, linear.bias);
  return settings;
}

FeedForwardSettings add(std::vector<mx::array>& inputs, const FeedForwardArguments& layers) {
  FeedForwardSettings settings;
  settings.gate = add(inputs, layers.gate);
  if (layers.up) {
    settings.up = add(inputs, *layers.up);
  }
  settings.down = add(inputs, layers.down);
  settings.activation = layers.activation;
  return settings;
}

// --- From inputs to arguments ------------------------------------------------------------------------------------------------

/// Walks through a list of inputs.
class InputReader {
 public:
  explicit InputReader(const std::vector<mx::array>& inputs) : next_(inputs.begin()) {}
  const mx::array& take() { return *next_++; }
  std::optional<mx::array> take_if(bool wanted) { return wanted ? std::optional(take()) : std::nullopt; }

 private:
  std::vector<mx::array>::const_iterator next_;
};

LinearArguments read(InputReader& inputs, const LinearSettings& settings) {
  LinearArguments linear;
  if (!settings.quantized) {
    linear.dense = inputs.take();
  } else {
    const auto part = [&](std::size_t index) { return settings.parameters ? settings.parameters->part(index) : inputs.take(); };
    mx::array w = part(0);
    mx::array scales = part(1);
    linear.quantized = QuantizedArguments{.w = std::move(w),
                                          .scales = std::move(scales),
                                          .biases = settings.has_biases ? std::optional(part(2)) : std::nullopt,
                                          .transpose = settings.weights.transpose,
                                          .group_size = settings.weights.group_size,
                                          .bits = settings.weights.bits,
                                          .mode = std::string(name_of(settings.weights.mode)),
                                          .global_scale = inputs.take_if(settings.has_global_scale)};
  }
  linear.bias = inputs.take_if(settings.has_bias);
  return linear;
}

FeedForwardArguments read(InputReader& inputs, const FeedForwardSettings& settings) {
  FeedForwardArguments layers;
  layers.gate = read(inputs, settings.gate);
  if (settings.up) {
    layers.up = read(inputs, *settings.up);
  }
  layers.down = read(inputs, settings.down);
  layers.activation = settings.activation;
  return layers;
}

// --- From arguments to gqmm's --------------------------------------------------------------------------------------------------

/// The weights in place. `as_array` turns an array of MLX into one of gqmm.
template <class AsArray>
ExpertWeights weights_in_place(const LinearArguments& linear, const LinearSettings& settings, AsArray as_array) {
  if (!settings.quantized) {
    return as_array(*linear.dense);
  }
  const QuantizedArguments& q = *linear.quantized;
  QuantizedWeights weights = settings.weights.without_arrays();
  weights.w = as_array(q.w);
  weights.scales = as_array(q.scales);
  if (q.biases) {
    weights.biases = as_array(*q.biases);
  }
  if (q.global_scale) {
    weights.global_scale = as_array(*q.global_scale);
  }
  return weights;
}

ExpertWeights evaluated_weights(const LinearArguments& linear, const LinearSettings& settings) {
  std::optional<PackedWeights> packed;
  if (settings.parameters) {
    packed = settings.parameters->weights();
  } else if (settings.copy) {
    packed = settings.copy->use();
  }
  if (!packed) {
    return weights_in_place(linear, settings, view_of);
  }
  const std::optional<mx::array>& global_scale = linear.quantized->global_scale;
  return global_scale ? packed->with_global_scale(view_of(*global_scale), op) : *packed;
}

/// `as_weights` turns the arguments and settings of a linear layer into its weights.
template <class AsArray, class AsWeights>
MoeFfnCall call_of(const ExpertLayerArguments& a, const LayerSettings& settings, AsArray as_array, AsWeights as_weights) {
  const auto optional = [&](const std::optional<mx::array>& array) {
    return array ? std::optional(as_array(*array)) : std::nullopt;
  };
  const auto up_of = [&](const FeedForwardArguments& layers, const FeedForwardSettings& of) {
    return layers.up ? std::optional<ExpertWeights>(as_weights(*layers.up, *of.up)) : std::nullopt;
  };
  const auto up_bias_of = [&](const FeedForwardArguments& layers) {
    return layers.up ? optional(layers.up->bias) : std::nullopt;
  };
  const FeedForwardArguments& experts = a.experts;
  MoeFfnCall call = {.x = as_array(a.x),
                     .topk_ids = as_array(a.topk_ids),
                     .topk_weights = optional(a.topk_weights),
                     .gate = as_weights(experts.gate, settings.experts.gate),
                     .up = up_of(experts, settings.experts),
                     .down = as_weights(experts.down, settings.experts.down),
                     .options = {.activation = experts.activation,
                                 .gate_up_order = a.order,
                                 .gate_bias = optional(experts.gate.bias),
                                 .up_bias = up_bias_of(experts),
                                 .down_bias = optional(experts.down.bias),
                                 .router_weight_on_input = a.router_weight_on_input,
                                 .missing = a.missing,
                                 .local_experts = a.local_experts,
                                 .precision = a.precision}};
  if (a.shared) {
    const FeedForwardArguments& shared = a.shared->layers;
    call.options.shared = SharedExperts{.gate = as_weights(shared.gate, settings.shared->gate),
                                        .up = up_of(shared, *settings.shared),
                                        .down = as_weights(shared.down, settings.shared->down),
                                        .gate_bias = optional(shared.gate.bias),
                                        .up_bias = up_bias_of(shared),
                                        .down_bias = optional(shared.down.bias),
                                        .activation = shared.activation,
                                        .scale = optional(a.shared->scale)};
  }
  return call;
}

// --- Gradients -----------------------------------------------------------------------------------------------------------------

void add_places(std::vector<GradientPlace>& places, const LinearSettings& settings, LayerWrt& wrt, LayerGradients& gradients) {
  if (!settings.quantized) {
    places.push_back({&wrt.weights, &gradients.weights});
  } else {
    if (!settings.parameters) {
      const bool affine = settings.weights.mode == Mode::affine;
      places.emplace_back();  // codes
      places.push_back(affine ? GradientPlace{&wrt.scales, &gradients.scales} : GradientPlace());
      if (settings.has_biases) {
        places.push_back({&wrt.biases, &gradients.biases});
      }
    }
    if (settings.has_global_scale) {
      places.emplace_back();
    }
  }
  if (settings.has_bias) {
    places.push_back({&wrt.bias, &gradients.bias});
  }
}

}  // namespace

bool operator==(const LayerSettings& a, const LayerSettings& b) {
  const auto local = [](const LayerSettings& s) {
    return s.local_experts ? std::pair(s.local_experts->first, s.local_experts->count)
                           : std::pair<std::int64_t, std::int64_t>(-1, -1);
  };
  return a.has_topk_weights == b.has_topk_weights && a.has_scale == b.has_scale && a.experts == b.experts &&
         a.shared == b.shared && a.order == b.order && a.router_weight_on_input == b.router_weight_on_input &&
         a.missing == b.missing && local(a) == local(b) && a.precision == b.precision;
}

LayerInputs inputs_of(const ExpertLayerArguments& a) {
  LayerInputs result = {.inputs = {a.x, a.topk_ids}, .settings = {}};
  LayerSettings& settings = result.settings;
  settings.has_topk_weights = a.topk_weights.has_value();
  add_if(result.inputs, a.topk_weights);
  if (a.shared) {
    settings.has_scale = a.shared->scale.has_value();
    add_if(result.inputs, a.shared->scale);
  }
  settings.experts = add(result.inputs, a.experts);
  if (a.shared) {
    settings.shared = add(result.inputs, a.shared->layers);
  }
  settings.order = a.order;
  settings.router_weight_on_input = a.router_weight_on_input;
  settings.missing = a.missing;
  settings.local_experts = a.local_experts;
  settings.precision = a.precision;
  return result;
}

ExpertLayerArguments read_inputs(const std::vector<mx::array>& inputs, const LayerSettings& settings, mx::Stream stream) {
  InputReader reader(inputs);
  const mx::array& x = reader.take();
  const mx::array& ids = reader.take();
  ExpertLayerArguments arguments = {.x = x, .topk_ids = ids};
  arguments.topk_weights = reader.take_if(settings.has_topk_weights);
  const std::optional<mx::array> scale = reader.take_if(settings.has_scale);
  arguments.experts = read(reader, settings.experts);
  if (settings.shared) {
    arguments.shared = SharedExpertsArguments{.layers = read(reader, *settings.shared), .scale = scale};
  }
  arguments.order = settings.order;
  arguments.router_weight_on_input = settings.router_weight_on_input;
  arguments.missing = settings.missing;
  arguments.local_experts = settings.local_experts;
  arguments.precision = settings.precision;
  arguments.stream = stream;
  return arguments;
}

void drop_other_copies(LayerSettings& settings, const ExpertLayerArguments& arguments) {
  const auto check = [](LinearSettings& linear, const LinearArguments& built) {
    if (linear.copy && !linear.copy->is_of(packable(*built.quantized))) {
      linear.copy = nullptr;
    }
  };
  const auto check_all = [&](FeedForwardSettings& layers, const FeedForwardArguments& built) {
    check(layers.gate, built.gate);
    if (layers.up) {
      check(*layers.up, *built.up);
    }
    check(layers.down, built.down);
  };
  check_all(settings.experts, arguments.experts);
  if (settings.shared) {
    check_all(*settings.shared, arguments.shared->layers);
  }
}

MoeFfnCall outline_of_call(const ExpertLayerArguments& arguments, const LayerSettings& settings) {
  return call_of(arguments, settings, outline_of, [](const LinearArguments& linear, const LinearSettings& of) {
    return weights_in_place(linear, of, outline_of);
  });
}

MoeFfnCall evaluated_call(const ExpertLayerArguments& arguments, const LayerSettings& settings) {
  return call_of(arguments, settings, view_of, evaluated_weights);
}

std::vector<GradientPlace> gradient_places(const LayerSettings& settings, MoeFfnWrt& wrt, MoeFfnGradients& gradients) {
  std::vector<GradientPlace> places = {{&wrt.x, &gradients.x}, {}};
  if (settings.has_topk_weights) {
    places.push_back({&wrt.topk_weights, &gradients.topk_weights});
  }
  if (settings.has_scale) {
    places.emplace_back();
  }
  add_places(places, settings.experts.gate, wrt.gate, gradients.gate);
  if (settings.experts.up) {
    add_places(places, *settings.experts.up, wrt.up, gradients.up);
  }
  add_places(places, settings.experts.down, wrt.down, gradients.down);
  return places;
}

ResultType result_of(const ExpertLayerArguments& arguments, const LayerSettings& settings) {
  const MoeFfnCall call = outline_of_call(arguments, settings);
  return infer_moe_ffn(call.x, call.topk_ids, call.topk_weights, call.gate, call.up, call.down, call.options);
}

}  // namespace gqmm::mlx
