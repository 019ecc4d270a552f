#include "expert_layer.hpp"

#include "arrays.hpp"
#include "composed.hpp"
#include "indexing.hpp"
#include "layer_inputs.hpp"
#include "layer_of_products.hpp"
#include "product.hpp"

#include <mlx/ops.h>
#include <mlx/primitives.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

namespace gqmm::mlx {
namespace {

/// The gradients of a layer by some of its inputs. Its inputs are those of the layer, and the gradient of the layer's result.
class ExpertLayerVjp final : public Composed {
 public:
  ExpertLayerVjp(mx::Stream stream, LayerSettings settings, std::vector<int> argnums)
      : Composed(stream), settings_(std::move(settings)), argnums_(std::move(argnums)) {}

  [[nodiscard]] const char* name() const override { return "GqmmMoeFfnVjp"; }
  [[nodiscard]] bool is_equivalent(const Primitive& other) const override {
    const auto& that = static_cast<const ExpertLayerVjp&>(other);
    return settings_ == that.settings_ && argnums_ == that.argnums_;
  }
  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override {
    std::vector<mx::Shape> shapes;
    for (const mx::array& input : selected(inputs, argnums_)) {
      shapes.push_back(input.shape());
    }
    return shapes;
  }

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    LayerSettings settings = settings_;
    drop_other_copies(settings, read_inputs(inputs, settings_, stream()));
    const std::vector<mx::array> weak = weak_copies(inputs);
    evaluate_on_stream(stream(), inputs, outputs,
                       [a = read_inputs(weak, settings, stream()), dy = weak.back(), settings,
                        argnums = argnums_](std::vector<mx::array>& results) {
                         const MoeFfnCall call = evaluated_call(a, settings);
                         MoeFfnVjpOptions options = {.forward = call.options, .wrt = {.x = false}};
                         MoeFfnGradients gradients;
                         const std::vector<GradientPlace> places = gradient_places(settings, options.wrt, gradients);
                         for (const int argnum : argnums) {
                           *places[static_cast<std::size_t>(argnum)].wanted = true;
                         }
                         gradients = gqmm::moe_ffn_vjp(view_of(dy), call.x, call.topk_ids, call.topk_weights, call.gate, call.up,
                                                       call.down, options);
                         for (std::size_t i = 0; i < results.size(); ++i) {
                           const array& gradient = **places[static_cast<std::size_t>(argnums[i])].gradient;
                           std::copy_n(gradient.bytes(), gradient.nbytes(), results[i].data<std::byte>());
                         }
                       });
  }

 protected:
  std::vector<mx::array> composed(const std::vector<mx::array>& inputs) override {
    const std::vector<mx::array> primals(inputs.begin(), inputs.end() - 1);
    const auto layer = [this](const std::vector<mx::array>& arrays) {
      return std::vector<mx::array>{layer_of_products(read_inputs(arrays, settings_, stream()), stream())};
    };
    return mx::vjp(function_of(primals, argnums_, layer), selected(primals, argnums_), {inputs.back()}).second;
  }

 private:
  LayerSettings settings_;
  std::vector<int> argnums_;
};

class ExpertLayer final : public Composed {
 public:
  ExpertLayer(mx::Stream stream, LayerSettings settings) : Composed(stream), settings_(std::move(settings)) {}

  [[nodiscard]] const char* name() const override { return "GqmmMoeFfn"; }
  [[nodiscard]] bool is_equivalent(const Primitive& other) const override {
    return settings_ == static_cast<const ExpertLayer&>(other).settings_;
  }
  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override {
    const Shape shape = result_of(read_inputs(inputs, settings_, stream()), settings_).shape;
    return {mx::Shape(shape.begin(), shape.end())};
  }

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    LayerSettings settings = settings_;
    drop_other_copies(settings, read_inputs(inputs, settings_, stream()));
    evaluate_on_stream(stream(), inputs, outputs.front(),
                       [a = read_inputs(weak_copies(inputs), settings, stream()), settings](mx::array& y) {
                         MoeFfnCall call = evaluated_call(a, settings);
                         call.options.out = writable_view_of(y);
                         gqmm::moe_ffn(call.x, call.topk_ids, call.topk_weights, call.gate, call.up, call.down, call.options);
                       });
  }
  std::vector<mx::array> vjp(const std::vector<mx::array>& primals, const std::vector<mx::array>& cotangents,
                             const std::vector<int>& argnums, const std::vector<mx::array>& outputs) override {
    MoeFfnWrt wrt;
    MoeFfnGradients gradients;
    const std::vector<GradientPlace> places = gradient_places(settings_, wrt, gradients);
    const bool has_all = std::all_of(argnums.begin(), argnums.end(), [&](int argnum) {
      const auto input = static_cast<std::size_t>(argnum);
      return input < places.size() && places[input].wanted != nullptr;
    });
    if (!has_all) {
      return Composed::vjp(primals, cotangents, argnums, outputs);
    }
    std::vector<mx::Shape> shapes;
    std::vector<mx::Dtype> types;
    for (const mx::array& primal : selected(primals, argnums)) {
      shapes.push_back(primal.shape());
      types.push_back(primal.dtype());
    }
    std::vector<mx::array> inputs = primals;
    inputs.push_back(cotangents.front());
    return mx::array::make_arrays(std::move(shapes), types, std::make_shared<ExpertLayerVjp>(stream(), settings_, argnums),
                                  inputs);
  }
  std::pair<std::vector<mx::array>, std::vector<int>> vmap(const std::vector<mx::array>& inputs,
                                                           const std::vector<int>& axes) override {
    const std::size_t of_tokens = settings_.inputs_of_tokens();
    if (std::any_of(axes.begin() + static_cast<std::ptrdiff_t>(of_tokens), axes.end(), [](int axis) { return axis >= 0; })) {
      return Composed::vmap(inputs, axes);
    }
    std::vector<mx::array> moved = batch_in_front(inputs, axes, of_tokens, stream());
    const ResultType result = result_of(read_inputs(moved, settings_, stream()), settings_);
    mx::array y({result.shape.begin(), result.shape.end()}, mlx_dtype(result.dtype),
                std::make_shared<ExpertLayer>(stream(), settings_), std::move(moved));
    return {{std::move(y)}, {0}};
  }

 protected:
  std::vector<mx::array> composed(const std::vector<mx::array>& inputs) override {
    return {layer_of_products(read_inputs(inputs, settings_, stream()), stream())};
  }

 private:
  LayerSettings settings_;
};

/// Calls function(linear) for each linear layer.
template <class Function>
void for_each_linear(const ExpertLayerArguments& a, Function function) {
  const auto of_block = [&](const FeedForwardArguments& layers) {
    function(layers.gate);
    if (layers.up) {
      function(*layers.up);
    }
    function(layers.down);
  };
  of_block(a.experts);
  if (a.shared) {
    of_block(a.shared->layers);
  }
}

}  // namespace

mx::array moe_ffn(const ExpertLayerArguments& a) {
  const mx::Stream stream = mx::to_stream(a.stream);
  LayerInputs layer = inputs_of(a);
  const ResultType result = result_of(a, layer.settings);
  if (stream.device != mx::Device::cpu) {
    ++counts().moe_ffn.stock;
    return layer_of_products(a, stream);
  }
  ++counts().moe_ffn.ours;
  // Each product counts as a call of the function that would compute it alone.
  for_each_linear(a, [](const LinearArguments& linear) { ++(linear.quantized ? counts().gather_qmm : counts().gather_mm).ours; });
  return mx::array({result.shape.begin(), result.shape.end()}, mlx_dtype(result.dtype),
                   std::make_shared<ExpertLayer>(stream, std::move(layer.settings)), std::move(layer.inputs));
}

}  // namespace gqmm::mlx
