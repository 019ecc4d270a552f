#include "expert_layer.hpp"

#include "arrays.hpp"
#include "composed.hpp"
#include "evaluation_errors.hpp"
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

/// What the layer and its gradients share: settings that say how to read the inputs.
class OfLayer : public Composed {
 public:
  OfLayer(mx::Stream stream, LayerSettings settings, bool knows_ids)
      : Composed(stream), settings_(std::move(settings)), knows_ids_(knows_ids) {}

 protected:
  /// Checks ids that were known when the graph was built. Returns the settings to evaluate these inputs with.
  LayerSettings prepare(const std::vector<mx::array>& inputs) {
    const ExpertLayerArguments arguments = read_inputs(inputs, settings_, stream());
    if (knows_ids_) {
      const MoeFfnCall outline = outline_of_call(arguments, settings_);
      check_known([&] { check_topk_ids(view_of(arguments.topk_ids), outline.gate, outline.options); });
    }
    LayerSettings settings = settings_;
    drop_other_copies(settings, arguments);
    return settings;
  }
  [[nodiscard]] const LayerSettings& settings() const { return settings_; }
  [[nodiscard]] bool knows_ids() const { return knows_ids_; }

 private:
  LayerSettings settings_;
  bool knows_ids_;
};

/// The gradients of a layer by some of its inputs. Its inputs are those of the layer, and the gradient of the layer's result.
class ExpertLayerVjp final : public OfLayer {
 public:
  ExpertLayerVjp(mx::Stream stream, LayerSettings settings, bool knows_ids, std::vector<int> argnums)
      : OfLayer(stream, std::move(settings), knows_ids), argnums_(std::move(argnums)) {}

  [[nodiscard]] const char* name() const override { return "GqmmMoeFfnVjp"; }
  [[nodiscard]] bool is_equivalent(const Primitive& other) const override {
    const auto& that = static_cast<const ExpertLayerVjp&>(other);
    return settings() == that.settings() && argnums_ == that.argnums_;
  }
  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override {
    std::vector<mx::Shape> shapes;
    for (const mx::array& input : selected(inputs, argnums_)) {
      shapes.push_back(input.shape());
    }
    return shapes;
  }

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    const LayerSettings settings = prepare(inputs);
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
      return std::vector<mx::array>{layer_of_products(read_inputs(arrays, settings(), stream()), stream())};
    };
    return mx::vjp(function_of(primals, argnums_, layer), selected(primals, argnums_), {inputs.back()}).second;
  }

 private:
  std::vector<int> argnums_;
};

class ExpertLayer final : public OfLayer {
 public:
  using OfLayer::OfLayer;

  [[nodiscard]] const char* name() const override { return "GqmmMoeFfn"; }
  [[nodiscard]] bool is_equivalent(const Primitive& other) const override {
    return settings() == static_cast<const ExpertLayer&>(other).settings();
  }
  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override {
    const Shape shape = result_of(read_inputs(inputs, settings(), stream()), settings()).shape;
    return {mx::Shape(shape.begin(), shape.end())};
  }

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    const LayerSettings settings = prepare(inputs);
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
    const std::vector<GradientPlace> places = gradient_places(settings(), wrt, gradients);
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
    return mx::array::make_arrays(std::move(shapes), types,
                                  std::make_shared<ExpertLayerVjp>(stream(), settings(), knows_ids(), argnums), inputs);
  }
  std::pair<std::vector<mx::array>, std::vector<int>> vmap(const std::vector<mx::array>& inputs,
                                                           const std::vector<int>& axes) override {
    const std::size_t of_tokens = settings().inputs_of_tokens();
    if (std::any_of(axes.begin() + static_cast<std::ptrdiff_t>(of_tokens), axes.end(), [](int axis) { return axis >= 0; })) {
      return Composed::vmap(inputs, axes);
    }
    std::vector<mx::array> moved = batch_in_front(inputs, axes, of_tokens, stream());
    const ResultType result = result_of(read_inputs(moved, settings(), stream()), settings());
    auto layer = std::make_shared<ExpertLayer>(stream(), settings(), is_known(moved[1]));
    mx::array y({result.shape.begin(), result.shape.end()}, mlx_dtype(result.dtype), std::move(layer), std::move(moved));
    return {{std::move(y)}, {0}};
  }

 protected:
  std::vector<mx::array> composed(const std::vector<mx::array>& inputs) override {
    return {layer_of_products(read_inputs(inputs, settings(), stream()), stream())};
  }
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
  if (!is_on_cpu(stream)) {
    ++counts().moe_ffn.stock;
    return layer_of_products(a, stream);
  }
  ++counts().moe_ffn.ours;
  // Each product counts as a call of the function that would compute it alone.
  for_each_linear(a, [](const LinearArguments& linear) { ++(linear.quantized ? counts().gather_qmm : counts().gather_mm).ours; });
  return mx::array({result.shape.begin(), result.shape.end()}, mlx_dtype(result.dtype),
                   std::make_shared<ExpertLayer>(stream, std::move(layer.settings), is_known(a.topk_ids)),
                   std::move(layer.inputs));
}

}  // namespace gqmm::mlx
