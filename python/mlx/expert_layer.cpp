#include "expert_layer.hpp"

#include "arrays.hpp"
#include "composed.hpp"
#include "indexing.hpp"
#include "product.hpp"

#include <gqmm/infer.hpp>

#include <mlx/ops.h>
#include <mlx/primitives.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numbers>
#include <stdexcept>
#include <string>
#include <utility>
#include <variant>

namespace gqmm::mlx {
namespace {

constexpr const char* op = "moe_ffn";

bool is_compute_type(const mx::array& a) {
  return a.dtype() == mx::float32 || a.dtype() == mx::bfloat16 || a.dtype() == mx::float16;
}

/// The settings of a layer. Its arrays stand in a list of inputs: w, scales, biases and global_scale, or the dense matrices, and
/// then the bias. Packed parameters replace w, scales and biases.
struct LinearSettings {
  bool quantized = false;
  WeightSettings weights = {};
  bool has_biases = false;
  bool has_global_scale = false;
  bool has_bias = false;
  std::shared_ptr<const PackedParameters> parameters = {};
  friend bool operator==(const LinearSettings&, const LinearSettings&) = default;

  [[nodiscard]] std::size_t arrays() const {
    const std::size_t of_weights = parameters ? 0 : !quantized ? 1 : has_biases ? 3 : 2;
    return of_weights + (has_global_scale ? 1 : 0) + (has_bias ? 1 : 0);
  }
};

struct LayerSettings {
  bool has_weights = false;  // topk_weights
  LinearSettings gate;
  std::optional<LinearSettings> up;
  LinearSettings down;
  Activation activation;
  GateUpOrder order = GateUpOrder::gate_up;
  Missing missing = Missing::error;
  std::optional<LocalExperts> local_experts;
  Precision precision = Precision::standard;

  [[nodiscard]] bool equals(const LayerSettings& that) const {
    const auto local = [](const std::optional<LocalExperts>& l) {
      return l ? std::pair(l->first, l->count) : std::pair<std::int64_t, std::int64_t>(-1, -1);
    };
    return has_weights == that.has_weights && gate == that.gate && up == that.up && down == that.down &&
           activation == that.activation && order == that.order && missing == that.missing &&
           local(local_experts) == local(that.local_experts) && precision == that.precision;
  }
};

/// The packed copies of the layers, as far as there are any.
struct PackedLayers {
  std::shared_ptr<PackedCopy> gate;
  std::shared_ptr<PackedCopy> up;
  std::shared_ptr<PackedCopy> down;
};

/// Walks through a list of inputs.
class InputReader {
 public:
  explicit InputReader(const std::vector<mx::array>& inputs) : next_(inputs.begin()) {}
  const mx::array& take() { return *next_++; }
  std::optional<mx::array> take_if(bool wanted) { return wanted ? std::optional(take()) : std::nullopt; }

 private:
  std::vector<mx::array>::const_iterator next_;
};

LinearArguments read_linear(InputReader& inputs, const LinearSettings& settings) {
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

/// The arguments that the inputs of the primitive stand for.
ExpertLayerArguments read_inputs(const std::vector<mx::array>& inputs, const LayerSettings& settings, mx::Stream stream) {
  InputReader reader(inputs);
  const mx::array& x = reader.take();
  const mx::array& ids = reader.take();
  ExpertLayerArguments arguments = {.x = x, .topk_ids = ids};
  arguments.topk_weights = reader.take_if(settings.has_weights);
  arguments.gate = read_linear(reader, settings.gate);
  if (settings.up) {
    arguments.up = read_linear(reader, *settings.up);
  }
  arguments.down = read_linear(reader, settings.down);
  arguments.activation = settings.activation;
  arguments.order = settings.order;
  arguments.missing = settings.missing;
  arguments.local_experts = settings.local_experts;
  arguments.precision = settings.precision;
  arguments.stream = stream;
  return arguments;
}

// --- The layer as a graph of products ----------------------------------------------------------------------------------------

/// Builds the layer from products and MLX's own functions. Transforms are made of it.
class LayerOfProducts {
 public:
  LayerOfProducts(const ExpertLayerArguments& arguments, mx::Stream stream) : a_(arguments), s_(stream) {}

  [[nodiscard]] mx::array build() const {
    const mx::array here = has_expert();
    const bool all_here = a_.missing == Missing::error && !a_.local_experts;
    const mx::array ids = all_here ? a_.topk_ids : mx::where(here, local_ids(), mx::zeros_like(a_.topk_ids, s_), s_);
    const mx::array x = mx::expand_dims(a_.x, {-2, -3}, s_);
    mx::array gate = multiply(x, a_.gate, ids);
    std::optional<mx::array> up;
    if (a_.up) {
      up = multiply(x, *a_.up, ids);
    } else if (is_gated(a_.activation)) {
      up = half(gate, a_.order == GateUpOrder::up_gate ? 0 : 1);
      gate = half(gate, a_.order == GateUpOrder::up_gate ? 1 : 0);
    }
    const mx::array h = std::visit(Activate{gate, up, s_}, a_.activation);
    mx::array slots = mx::astype(mx::squeeze(multiply(h, a_.down, ids), -2, s_), a_.x.dtype(), s_);
    if (!all_here) {
      slots = mx::where(mx::expand_dims(here, -1, s_), slots, mx::zeros_like(slots, s_), s_);
    }
    if (!a_.topk_weights) {
      return slots;
    }
    const mx::array weights = mx::expand_dims(mx::astype(*a_.topk_weights, mx::float32, s_), -1, s_);
    return mx::astype(mx::sum(mx::multiply(mx::astype(slots, mx::float32, s_), weights, s_), -2, false, s_), a_.x.dtype(), s_);
  }

 private:
  [[nodiscard]] mx::array local_ids() const {
    return a_.local_experts ? mx::subtract(a_.topk_ids, mx::array(a_.local_experts->first, a_.topk_ids.dtype()), s_)
                            : a_.topk_ids;
  }
  [[nodiscard]] mx::array has_expert() const {
    const mx::array ids = local_ids();
    const mx::array zero = mx::array(0, ids.dtype());
    const mx::array positive = mx::greater_equal(ids, zero, s_);
    return a_.local_experts ? mx::logical_and(positive, mx::less(ids, mx::array(a_.local_experts->count, ids.dtype()), s_), s_)
                            : positive;
  }

  [[nodiscard]] mx::array multiply(const mx::array& x, const LinearArguments& linear, const mx::array& ids) const {
    const auto product = [&] {
      if (!linear.quantized) {
        return mlx::gather_mm(x, mx::swapaxes(*linear.dense, -1, -2, s_), std::nullopt, ids, false, s_);
      }
      QuantizedArguments arguments = *linear.quantized;
      arguments.rhs_indices = ids;
      arguments.precision = a_.precision;
      arguments.stream = s_;
      return mlx::gather_qmm(x, arguments);
    };
    const mx::array y = product();
    return linear.bias ? mx::add(y, mx::expand_dims(mx::take(*linear.bias, ids, 0, s_), -2, s_), s_) : y;
  }

  /// Gate or up of a layer that has both.
  [[nodiscard]] mx::array half(const mx::array& both, int which) const {
    const int I = both.shape(-1) / 2;
    if (a_.order == GateUpOrder::interleaved) {
      return mx::take(mx::unflatten(both, -1, {I, 2}, s_), which, -1, s_);
    }
    return mx::take(mx::unflatten(both, -1, {2, I}, s_), which, -2, s_);
  }

  /// The activation in MLX's functions.
  struct Activate {
    const mx::array& gate;
    const std::optional<mx::array>& up;
    mx::Stream s;

    [[nodiscard]] mx::array number(double value) const { return mx::array(static_cast<float>(value), gate.dtype()); }
    [[nodiscard]] mx::array clip(const mx::array& a, float limit) const {
      return mx::clip(a, number(-double{limit}), number(limit), s);
    }
    [[nodiscard]] mx::array silu(const mx::array& a) const { return mx::multiply(a, mx::sigmoid(a, s), s); }
    [[nodiscard]] mx::array gelu(const mx::array& a, GeluApproximation approximate) const {
      if (approximate == GeluApproximation::tanh) {
        const mx::array cubic = mx::multiply(number(0.044715), mx::multiply(a, mx::multiply(a, a, s), s), s);
        const mx::array z = mx::multiply(number(std::sqrt(2 / std::numbers::pi)), mx::add(a, cubic, s), s);
        return mx::multiply(mx::multiply(number(0.5), a, s), mx::add(number(1), mx::tanh(z, s), s), s);
      }
      const mx::array scaled = mx::multiply(a, number(std::numbers::sqrt2 / 2), s);
      return mx::multiply(mx::multiply(number(0.5), a, s), mx::add(number(1), mx::erf(scaled, s), s), s);
    }
    [[nodiscard]] mx::array soft_clip(const mx::array& a, float beta) const {
      return mx::multiply(number(beta), mx::tanh(mx::divide(a, number(beta), s), s), s);
    }

    mx::array operator()(const SwiGLU& a) const {
      const mx::array g = a.limit ? mx::minimum(gate, number(*a.limit), s) : gate;
      mx::array u = a.limit ? clip(*up, *a.limit) : *up;
      if (a.bias != 0) {
        u = mx::add(u, number(a.bias), s);
      }
      const mx::array z = a.alpha == 1 ? g : mx::multiply(number(a.alpha), g, s);
      return mx::multiply(u, mx::multiply(g, mx::sigmoid(z, s), s), s);
    }
    mx::array operator()(const GeGLU& a) const { return mx::multiply(gelu(gate, a.approximate), *up, s); }
    mx::array operator()(const SiTU& a) const {
      const mx::array g = mx::multiply(soft_clip(gate, a.beta), mx::sigmoid(gate, s), s);
      return mx::multiply(g, a.linear_beta ? soft_clip(*up, *a.linear_beta) : *up, s);
    }
    mx::array operator()(const SwiGLUStep& a) const {
      return mx::multiply(mx::minimum(silu(gate), number(a.limit), s), clip(*up, a.limit), s);
    }
    mx::array operator()(const SiLU&) const { return silu(gate); }
    mx::array operator()(const GELU& a) const { return gelu(gate, a.approximate); }
    mx::array operator()(const ReLU2&) const { return mx::square(mx::maximum(gate, number(0), s), s); }
  };

  const ExpertLayerArguments& a_;
  mx::Stream s_;
};

// --- The primitive -----------------------------------------------------------------------------------------------------------

/// The weights of a layer as gqmm takes them. `as_array` turns an array of MLX into one of gqmm.
template <class AsArray>
ExpertWeights weights_of(const LinearArguments& linear, const LinearSettings& settings, AsArray as_array) {
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

/// The same after the arrays have been evaluated: packed, if there is a copy.
ExpertWeights evaluated_weights(const LinearArguments& linear, const LinearSettings& settings,
                                const std::shared_ptr<PackedCopy>& copy) {
  std::optional<PackedWeights> packed;
  if (settings.parameters) {
    packed = settings.parameters->weights();
  } else if (copy) {
    packed = copy->use();
  }
  if (!packed) {
    return weights_of(linear, settings, view_of);
  }
  const std::optional<mx::array>& global_scale = linear.quantized->global_scale;
  return global_scale ? packed->with_global_scale(view_of(*global_scale), op) : *packed;
}

template <class AsArray>
MoeFfnOptions options_of(const ExpertLayerArguments& a, AsArray as_array) {
  const auto optional = [&](const std::optional<mx::array>& array) {
    return array ? std::optional(as_array(*array)) : std::nullopt;
  };
  return {.activation = a.activation,
          .gate_up_order = a.order,
          .gate_bias = optional(a.gate.bias),
          .up_bias = a.up ? optional(a.up->bias) : std::nullopt,
          .down_bias = optional(a.down.bias),
          .missing = a.missing,
          .local_experts = a.local_experts,
          .precision = a.precision};
}

ResultType result_of(const ExpertLayerArguments& a, const LayerSettings& settings) {
  const auto weights = [](const LinearArguments& linear, const LinearSettings& of) { return weights_of(linear, of, outline_of); };
  return infer_moe_ffn(outline_of(a.x), outline_of(a.topk_ids),
                       a.topk_weights ? std::optional(outline_of(*a.topk_weights)) : std::nullopt, weights(a.gate, settings.gate),
                       a.up ? std::optional(weights(*a.up, *settings.up)) : std::nullopt, weights(a.down, settings.down),
                       options_of(a, outline_of));
}

class ExpertLayer final : public Composed {
 public:
  ExpertLayer(mx::Stream stream, LayerSettings settings, PackedLayers packed)
      : Composed(stream), settings_(std::move(settings)), packed_(std::move(packed)) {}

  [[nodiscard]] const char* name() const override { return "GqmmMoeFfn"; }
  [[nodiscard]] bool is_equivalent(const Primitive& other) const override {
    return settings_.equals(static_cast<const ExpertLayer&>(other).settings_);
  }
  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override {
    const Shape shape = result_of(read_inputs(inputs, settings_, stream()), settings_).shape;
    return {mx::Shape(shape.begin(), shape.end())};
  }

  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    // After mx.compile the weights may differ from those that this layer was built with.
    const ExpertLayerArguments built = read_inputs(inputs, settings_, stream());
    const PackedLayers packed = {.gate = copy_of(packed_.gate, built.gate),
                                 .up = built.up ? copy_of(packed_.up, *built.up) : nullptr,
                                 .down = copy_of(packed_.down, built.down)};
    evaluate_on_stream(stream(), inputs, out,
                       [a = read_inputs(weak_copies(inputs), settings_, stream()), settings = settings_, packed](mx::array& y) {
                         MoeFfnOptions options = options_of(a, view_of);
                         options.out = writable_view_of(y);
                         std::optional<ExpertWeights> up;
                         if (a.up) {
                           up = evaluated_weights(*a.up, *settings.up, packed.up);
                         }
                         gqmm::moe_ffn(view_of(a.x), view_of(a.topk_ids),
                                       a.topk_weights ? std::optional(view_of(*a.topk_weights)) : std::nullopt,
                                       evaluated_weights(a.gate, settings.gate, packed.gate), up,
                                       evaluated_weights(a.down, settings.down, packed.down), options);
                       });
  }
  std::pair<std::vector<mx::array>, std::vector<int>> vmap(const std::vector<mx::array>& inputs,
                                                           const std::vector<int>& axes) override {
    const std::size_t rows = settings_.has_weights ? 3 : 2;  // x, ids and weights have the dimensions of tokens
    const bool only_rows = std::all_of(axes.begin() + static_cast<std::ptrdiff_t>(rows), axes.end(), [](int a) { return a < 0; });
    if (!only_rows) {
      const auto layer = [this](const std::vector<mx::array>& arrays) { return std::vector<mx::array>{composed(arrays)}; };
      return {mx::vmap(layer, axes, {0})(inputs), {0}};
    }
    std::vector<mx::array> moved = batch_in_front(inputs, axes, rows, stream());
    const ResultType result = result_of(read_inputs(moved, settings_, stream()), settings_);
    mx::array y({result.shape.begin(), result.shape.end()}, mlx_dtype(result.dtype),
                std::make_shared<ExpertLayer>(stream(), settings_, packed_), std::move(moved));
    return {{std::move(y)}, {0}};
  }

 protected:
  mx::array composed(const std::vector<mx::array>& inputs) override {
    const ExpertLayerArguments arguments = read_inputs(inputs, settings_, stream());
    return LayerOfProducts(arguments, stream()).build();
  }

 private:
  static std::shared_ptr<PackedCopy> copy_of(const std::shared_ptr<PackedCopy>& copy, const LinearArguments& linear) {
    if (!copy || !linear.quantized) {
      return nullptr;
    }
    std::vector<mx::array> weights = {linear.quantized->w, linear.quantized->scales};
    if (linear.quantized->biases) {
      weights.push_back(*linear.quantized->biases);
    }
    return copy->is_of(weights) ? copy : nullptr;
  }

  LayerSettings settings_;
  PackedLayers packed_;
};

/// Collects the inputs of the primitive, and the settings that say how to read them.
class LayerBuilder {
 public:
  explicit LayerBuilder(std::vector<mx::array> inputs) : inputs_(std::move(inputs)) {}

  LinearSettings add(const LinearArguments& linear, std::shared_ptr<PackedCopy>& copy) {
    LinearSettings settings;
    if (linear.quantized) {
      const QuantizedArguments& q = *linear.quantized;
      const QuantizedWeights resolved =
          QuantizedWeights{
              .mode = mode_from_name(q.mode, op), .bits = q.bits, .group_size = q.group_size, .transpose = q.transpose}
              .resolved(op);
      settings.quantized = true;
      settings.weights = {
          .mode = resolved.mode, .bits = *resolved.bits, .group_size = *resolved.group_size, .transpose = q.transpose};
      settings.has_biases = q.biases.has_value();
      settings.has_global_scale = q.global_scale.has_value();
      std::vector<mx::array> weights = {q.w, q.scales};
      if (q.biases) {
        weights.push_back(*q.biases);
      }
      settings.parameters = PackedParameters::of_parts(weights);
      if (settings.parameters && !settings.weights.are_of(settings.parameters->weights())) {
        settings.parameters = nullptr;
      }
      if (!settings.parameters) {
        if (q.find_packed_copy && q.transpose) {
          copy = q.find_packed_copy(weights, settings.weights);
        }
        inputs_.insert(inputs_.end(), weights.begin(), weights.end());
      }
      if (q.global_scale) {
        inputs_.push_back(*q.global_scale);
      }
    } else {
      inputs_.push_back(*linear.dense);
    }
    settings.has_bias = linear.bias.has_value();
    if (linear.bias) {
      inputs_.push_back(*linear.bias);
    }
    return settings;
  }
  [[nodiscard]] std::vector<mx::array> inputs() { return std::move(inputs_); }

 private:
  std::vector<mx::array> inputs_;
};

/// Counts the products of a layer, each as a call of the function that would compute it alone.
void count_products(const ExpertLayerArguments& a) {
  const auto count = [](const LinearArguments& linear) { ++(linear.quantized ? counts().gather_qmm : counts().gather_mm).ours; };
  count(a.gate);
  count(a.down);
  if (a.up) {
    count(*a.up);
  }
}

bool is_served(const LinearArguments& linear) {
  return linear.quantized ? find_mode(linear.quantized->mode).has_value() : is_compute_type(*linear.dense);
}

}  // namespace

mx::array moe_ffn(const ExpertLayerArguments& a) {
  const mx::Stream stream = mx::to_stream(a.stream);
  const bool served = stream.device == mx::Device::cpu && is_compute_type(a.x) &&
                      (!a.topk_weights || is_compute_type(*a.topk_weights)) && is_served(a.gate) && is_served(a.down) &&
                      (!a.up || is_served(*a.up));
  if (!served) {
    ++counts().moe_ffn.stock;
    return LayerOfProducts(a, stream).build();
  }
  std::vector<mx::array> rows = {a.x, a.topk_ids};
  if (a.topk_weights) {
    rows.push_back(*a.topk_weights);
  }
  LayerBuilder builder(std::move(rows));
  PackedLayers packed;
  LayerSettings settings;
  settings.has_weights = a.topk_weights.has_value();
  settings.gate = builder.add(a.gate, packed.gate);
  if (a.up) {
    settings.up = builder.add(*a.up, packed.up);
  }
  settings.down = builder.add(a.down, packed.down);
  settings.activation = a.activation;
  settings.order = a.order;
  settings.missing = a.missing;
  settings.local_experts = a.local_experts;
  settings.precision = a.precision;
  const ResultType result = result_of(a, settings);
  ++counts().moe_ffn.ours;
  count_products(a);
  return mx::array({result.shape.begin(), result.shape.end()}, mlx_dtype(result.dtype),
                   std::make_shared<ExpertLayer>(stream, std::move(settings), std::move(packed)), builder.inputs());
}

}  // namespace gqmm::mlx
