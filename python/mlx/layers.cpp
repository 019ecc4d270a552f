#include "layers.hpp"

#include "arrays.hpp"
#include "composed.hpp"
#include "functions.hpp"
#include "product.hpp"

#include <gqmm/infer.hpp>
#include <gqmm/norm.hpp>
#include <gqmm/rope.hpp>
#include <gqmm/softmax.hpp>

#include <mlx/fast.h>
#include <mlx/ops.h>
#include <mlx/primitives.h>

#include <cmath>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

namespace gqmm::mlx {
namespace {

using Arrays = std::vector<mx::array>;

class RmsNorm final : public Composed {
 public:
  RmsNorm(mx::Stream stream, float eps) : Composed(stream), eps_(eps) {}

  [[nodiscard]] const char* name() const override { return "GqmmRmsNorm"; }
  [[nodiscard]] bool is_equivalent(const Primitive& other) const override {
    return eps_ == static_cast<const RmsNorm&>(other).eps_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override { return {inputs[0].shape()}; }
  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    evaluate_on_stream(stream(), inputs, outputs.front(), [weak = weak_copies(inputs), eps = eps_](mx::array& y) {
      gqmm::rms_norm(view_of(weak[0]), weak.size() > 1 ? std::optional(view_of(weak[1])) : std::nullopt, eps,
                     {.out = writable_view_of(y)});
    });
  }
  std::pair<Arrays, std::vector<int>> vmap(const Arrays& inputs, const std::vector<int>& axes) override {
    return {{stack_of_calls(inputs, axes, stream(),
                            [&](const Arrays& one) { return mlx::rms_norm(one[0], weight_of(one), eps_, stream()); })},
            {0}};
  }

 protected:
  Arrays composed(const Arrays& inputs) override { return {mx::fast::rms_norm(inputs[0], weight_of(inputs), eps_, stream())}; }

 private:
  static std::optional<mx::array> weight_of(const Arrays& inputs) {
    return inputs.size() > 1 ? std::optional(inputs[1]) : std::nullopt;
  }

  float eps_;
};

/// The arguments of layer_norm that are no arrays. The inputs are x, and weight and bias if there are any.
struct LayerNormSettings {
  float eps = 0;
  bool has_weight = false;
  bool has_bias = false;
  friend bool operator==(const LayerNormSettings&, const LayerNormSettings&) = default;

  [[nodiscard]] std::optional<mx::array> weight_of(const Arrays& inputs) const {
    return has_weight ? std::optional(inputs[1]) : std::nullopt;
  }
  [[nodiscard]] std::optional<mx::array> bias_of(const Arrays& inputs) const {
    return has_bias ? std::optional(inputs[has_weight ? 2 : 1]) : std::nullopt;
  }
};

class LayerNorm final : public Composed {
 public:
  LayerNorm(mx::Stream stream, const LayerNormSettings& settings) : Composed(stream), settings_(settings) {}

  [[nodiscard]] const char* name() const override { return "GqmmLayerNorm"; }
  [[nodiscard]] bool is_equivalent(const Primitive& other) const override {
    return settings_ == static_cast<const LayerNorm&>(other).settings_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override { return {inputs[0].shape()}; }
  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    evaluate_on_stream(stream(), inputs, outputs.front(), [weak = weak_copies(inputs), settings = settings_](mx::array& y) {
      const auto view = [](const std::optional<mx::array>& a) { return a ? std::optional(view_of(*a)) : std::nullopt; };
      gqmm::layer_norm(view_of(weak[0]), view(settings.weight_of(weak)), view(settings.bias_of(weak)), settings.eps,
                       {.out = writable_view_of(y)});
    });
  }
  std::pair<Arrays, std::vector<int>> vmap(const Arrays& inputs, const std::vector<int>& axes) override {
    return {{stack_of_calls(inputs, axes, stream(),
                            [&](const Arrays& one) {
                              return mlx::layer_norm(one[0], settings_.weight_of(one), settings_.bias_of(one), settings_.eps,
                                                     stream());
                            })},
            {0}};
  }

 protected:
  Arrays composed(const Arrays& inputs) override {
    return {mx::fast::layer_norm(inputs[0], settings_.weight_of(inputs), settings_.bias_of(inputs), settings_.eps, stream())};
  }

 private:
  LayerNormSettings settings_;
};

class Softmax final : public Composed {
 public:
  /// `axes` are negative, so that dimensions may come in front.
  Softmax(mx::Stream stream, std::vector<int> axes, bool precise) : Composed(stream), axes_(std::move(axes)), precise_(precise) {}

  [[nodiscard]] const char* name() const override { return "GqmmSoftmax"; }
  [[nodiscard]] bool is_equivalent(const Primitive& other) const override {
    const auto& softmax = static_cast<const Softmax&>(other);
    return axes_ == softmax.axes_ && precise_ == softmax.precise_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override { return {inputs[0].shape()}; }
  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    evaluate_on_stream(stream(), inputs, outputs.front(), [weak = weak_copies(inputs), axes = axes_](mx::array& y) {
      gqmm::softmax(view_of(weak[0]), axes, {.out = writable_view_of(y)});
    });
  }
  std::pair<Arrays, std::vector<int>> vmap(const Arrays& inputs, const std::vector<int>& axes) override {
    return {{mlx::softmax(batch_in_front(inputs, axes, 1, stream())[0], axes_, precise_, stream())}, {0}};
  }

 protected:
  Arrays composed(const Arrays& inputs) override { return {mx::softmax(inputs[0], axes_, precise_, stream())}; }

 private:
  std::vector<int> axes_;
  bool precise_;
};

/// The arguments of rope that are no arrays. The inputs are x, and the offset and freqs if they are arrays.
struct RopeSettings {
  int dims = 0;
  bool traditional = false;
  std::optional<float> base = {};
  float scale = 1;
  std::optional<int> offset = {};
  bool has_freqs = false;
  friend bool operator==(const RopeSettings&, const RopeSettings&) = default;

  [[nodiscard]] RopeArguments arguments(const Arrays& inputs, mx::Stream stream) const {
    RopeArguments arguments = {.dims = dims, .traditional = traditional, .base = base, .scale = scale, .stream = stream};
    std::size_t next = 1;
    if (offset) {
      arguments.offset = *offset;
    } else {
      arguments.offset = inputs[next++];
    }
    if (has_freqs) {
      arguments.freqs = inputs[next];
    }
    return arguments;
  }
};

/// The options of the library; view(array) gives its arrays.
template <class View>
RopeOptions options_of(const RopeArguments& a, const View& view) {
  RopeOptions options = {.traditional = a.traditional, .base = a.base, .scale = a.scale};
  if (const auto* number = std::get_if<int>(&a.offset)) {
    options.offset = std::int64_t{*number};
  } else {
    options.offset = view(std::get<mx::array>(a.offset));
  }
  if (a.freqs) {
    options.freqs = view(*a.freqs);
  }
  return options;
}

mx::array stock_rope(const mx::array& x, const RopeArguments& a) {
  return std::visit(
      [&](const auto& offset) { return mx::fast::rope(x, a.dims, a.traditional, a.base, a.scale, offset, a.freqs, a.stream); },
      a.offset);
}

class Rope final : public Composed {
 public:
  Rope(mx::Stream stream, const RopeSettings& settings) : Composed(stream), settings_(settings) {}

  [[nodiscard]] const char* name() const override { return "GqmmRope"; }
  [[nodiscard]] bool is_equivalent(const Primitive& other) const override {
    return settings_ == static_cast<const Rope&>(other).settings_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override { return {inputs[0].shape()}; }
  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    evaluate_on_stream(
        stream(), inputs, outputs.front(), [weak = weak_copies(inputs), settings = settings_, s = stream()](mx::array& y) {
          RopeOptions options = options_of(settings.arguments(weak, s), [](const mx::array& a) { return view_of(a); });
          options.out = writable_view_of(y);
          gqmm::rope(view_of(weak[0]), settings.dims, options);
        });
  }
  std::pair<Arrays, std::vector<int>> vmap(const Arrays& inputs, const std::vector<int>& axes) override {
    return {{stack_of_calls(inputs, axes, stream(),
                            [&](const Arrays& one) { return mlx::rope(one[0], settings_.arguments(one, stream())); })},
            {0}};
  }

 protected:
  Arrays composed(const Arrays& inputs) override { return {stock_rope(inputs[0], settings_.arguments(inputs, stream()))}; }

 private:
  RopeSettings settings_;
};

bool is_integer(const mx::array& a) { return mx::issubdtype(a.dtype(), mx::integer); }

/// Whether gqmm has an operator for these arguments. MLX's function judges all others.
bool serves(const mx::array& x, const RopeArguments& a, mx::Stream stream) {
  const auto* offset = std::get_if<mx::array>(&a.offset);
  return is_on_cpu(stream) && is_compute_type(x) && x.ndim() >= 3 && a.dims >= 2 && a.dims % 2 == 0 && a.dims <= x.shape(-1) &&
         a.base.has_value() != a.freqs.has_value() && (!a.base || *a.base > 0) &&
         (!a.freqs || (is_compute_type(*a.freqs) && a.freqs->ndim() == 1)) &&
         (offset == nullptr || (is_integer(*offset) && offset->ndim() <= 1));
}

}  // namespace

mx::array rms_norm(const mx::array& x, const std::optional<mx::array>& weight, float eps, mx::StreamOrDevice stream) {
  const mx::Stream s = mx::to_stream(stream);
  if (!is_on_cpu(s) || !is_compute_type(x) || x.ndim() == 0 || !(eps >= 0) || !std::isfinite(eps) ||
      (weight && !is_compute_type(*weight))) {
    ++counts().rms_norm.stock;
    return mx::fast::rms_norm(x, weight, eps, s);
  }
  const ResultType result = infer_rms_norm(outline_of(x), weight ? std::optional(outline_of(*weight)) : std::nullopt, eps);
  ++counts().rms_norm.ours;
  Arrays inputs = {x};
  if (weight) {
    inputs.push_back(*weight);
  }
  return mx::array(x.shape(), mlx_dtype(result.dtype), std::make_shared<RmsNorm>(s, eps), std::move(inputs));
}

mx::array layer_norm(const mx::array& x, const std::optional<mx::array>& weight, const std::optional<mx::array>& bias, float eps,
                     mx::StreamOrDevice stream) {
  const mx::Stream s = mx::to_stream(stream);
  const auto fits = [](const std::optional<mx::array>& a) { return !a || is_compute_type(*a); };
  // Without a weight, the type of MLX's result is that of x, whatever the bias has.
  const bool has_mlxs_type = weight || !bias || mx::promote_types(x.dtype(), bias->dtype()) == x.dtype();
  const bool has_eps = eps >= 0 && std::isfinite(eps);
  if (!is_on_cpu(s) || !is_compute_type(x) || x.ndim() == 0 || !has_eps || !fits(weight) || !fits(bias) || !has_mlxs_type) {
    ++counts().layer_norm.stock;
    return mx::fast::layer_norm(x, weight, bias, eps, s);
  }
  const auto outline = [](const std::optional<mx::array>& a) { return a ? std::optional(outline_of(*a)) : std::nullopt; };
  const ResultType result = infer_layer_norm(outline_of(x), outline(weight), outline(bias), eps);
  ++counts().layer_norm.ours;
  const LayerNormSettings settings = {.eps = eps, .has_weight = weight.has_value(), .has_bias = bias.has_value()};
  Arrays inputs = {x};
  for (const std::optional<mx::array>& given : {weight, bias}) {
    if (given) {
      inputs.push_back(*given);
    }
  }
  return mx::array(x.shape(), mlx_dtype(result.dtype), std::make_shared<LayerNorm>(s, settings), std::move(inputs));
}

mx::array softmax(const mx::array& x, const std::vector<int>& axes, bool precise, mx::StreamOrDevice stream) {
  const mx::Stream s = mx::to_stream(stream);
  if (!is_on_cpu(s) || !is_compute_type(x) || x.ndim() == 0 || axes.empty()) {
    ++counts().softmax.stock;
    return mx::softmax(x, axes, precise, s);
  }
  std::ignore = infer_softmax(outline_of(x), axes);
  ++counts().softmax.ours;
  std::vector<int> from_the_last;
  for (const int axis : axes) {
    from_the_last.push_back(axis < 0 ? axis : axis - static_cast<int>(x.ndim()));
  }
  return mx::array(x.shape(), x.dtype(), std::make_shared<Softmax>(s, std::move(from_the_last), precise), {x});
}

mx::array rope(const mx::array& x, const RopeArguments& arguments) {
  const mx::Stream s = mx::to_stream(arguments.stream);
  if (!serves(x, arguments, s)) {
    ++counts().rope.stock;
    return stock_rope(x, arguments);
  }
  std::ignore =
      infer_rope(outline_of(x), arguments.dims, options_of(arguments, [](const mx::array& a) { return outline_of(a); }));
  ++counts().rope.ours;
  RopeSettings settings = {.dims = arguments.dims,
                           .traditional = arguments.traditional,
                           .base = arguments.base,
                           .scale = arguments.scale,
                           .has_freqs = arguments.freqs.has_value()};
  Arrays inputs = {x};
  if (const auto* number = std::get_if<int>(&arguments.offset)) {
    settings.offset = *number;
  } else {
    inputs.push_back(std::get<mx::array>(arguments.offset));
  }
  if (arguments.freqs) {
    inputs.push_back(*arguments.freqs);
  }
  return mx::array(x.shape(), x.dtype(), std::make_shared<Rope>(s, settings), std::move(inputs));
}

}  // namespace gqmm::mlx
