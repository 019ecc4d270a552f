#include "attention.hpp"

#include "arrays.hpp"
#include "composed.hpp"
#include "functions.hpp"
#include "product.hpp"
#include "stock.hpp"

#include <gqmm/attention.hpp>
#include <gqmm/infer.hpp>

#include <mlx/ops.h>
#include <mlx/primitives.h>

#include <memory>
#include <utility>
#include <vector>

namespace gqmm::mlx {
namespace {

using Arrays = std::vector<mx::array>;

/// What the inputs of the primitive are: q, k and v, then those of these that there are.
struct AttentionSettings {
  float scale = 1;
  bool causal = false;
  bool has_mask = false;
  bool has_sinks = false;
  bool has_origin = false;
  friend bool operator==(const AttentionSettings&, const AttentionSettings&) = default;

  [[nodiscard]] AttentionArguments arguments(const Arrays& inputs, mx::Stream stream) const {
    AttentionArguments arguments = {.scale = scale, .causal = causal, .stream = stream};
    std::size_t next = 3;
    if (has_mask) {
      arguments.mask = inputs[next++];
    }
    if (has_sinks) {
      arguments.sinks = inputs[next++];
    }
    if (has_origin) {
      arguments.origin = inputs[next++];
    }
    return arguments;
  }
};

/// The options of the library; view(array) gives its arrays.
template <class View>
AttentionOptions options_of(const AttentionArguments& arguments, const View& view) {
  AttentionOptions options;
  if (arguments.causal) {
    options.mask = CausalMask();
  } else if (arguments.mask) {
    options.mask = view(*arguments.mask);
  }
  if (arguments.sinks) {
    options.sinks = view(*arguments.sinks);
  }
  if (arguments.origin) {
    options.origin = view(*arguments.origin);
  }
  return options;
}

class Attention final : public Composed {
 public:
  Attention(mx::Stream stream, const AttentionSettings& settings) : Composed(stream), settings_(settings) {}

  [[nodiscard]] const char* name() const override { return "GqmmAttention"; }
  [[nodiscard]] bool is_equivalent(const Primitive& other) const override {
    return settings_ == static_cast<const Attention&>(other).settings_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override {
    mx::Shape shape = inputs[0].shape();
    shape.back() = inputs[2].shape(-1);
    return {shape};
  }
  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    evaluate_on_stream(
        stream(), inputs, outputs.front(), [weak = weak_copies(inputs), settings = settings_, s = stream()](mx::array& y) {
          AttentionOptions options = options_of(settings.arguments(weak, s), [](const mx::array& a) { return view_of(a); });
          options.out = writable_view_of(y);
          gqmm::scaled_dot_product_attention(view_of(weak[0]), view_of(weak[1]), view_of(weak[2]), settings.scale, options);
        });
  }
  std::pair<Arrays, std::vector<int>> vmap(const Arrays& inputs, const std::vector<int>& axes) override {
    return {{stack_of_calls(inputs, axes, stream(),
                            [&](const Arrays& one) {
                              return mlx::scaled_dot_product_attention(one[0], one[1], one[2],
                                                                       settings_.arguments(one, stream()));
                            })},
            {0}};
  }

 protected:
  Arrays composed(const Arrays& inputs) override {
    return {stock_attention(inputs[0], inputs[1], inputs[2], settings_.arguments(inputs, stream()))};
  }

 private:
  AttentionSettings settings_;
};

/// Whether gqmm has an operator for these arguments. MLX's function judges all others.
bool serves(const mx::array& q, const mx::array& k, const mx::array& v, const AttentionArguments& a, mx::Stream stream) {
  const auto fits = [](const mx::array& array) { return is_compute_type(array) && array.ndim() == 4; };
  return is_on_cpu(stream) && !a.force_fused && fits(q) && fits(k) && fits(v) &&
         (!a.mask || a.mask->dtype() == mx::bool_ || is_compute_type(*a.mask)) && (!a.sinks || is_compute_type(*a.sinks));
}

}  // namespace

mx::array scaled_dot_product_attention(const mx::array& q, const mx::array& k, const mx::array& v,
                                       const AttentionArguments& arguments) {
  const mx::Stream s = mx::to_stream(arguments.stream);
  if (!serves(q, k, v, arguments, s)) {
    ++counts().scaled_dot_product_attention.stock;
    return stock_attention(q, k, v, arguments);
  }
  const AttentionOptions outlines = options_of(arguments, [](const mx::array& a) { return outline_of(a); });
  const ResultType result =
      infer_scaled_dot_product_attention(outline_of(q), outline_of(k), outline_of(v), arguments.scale, outlines);
  ++counts().scaled_dot_product_attention.ours;
  const AttentionSettings settings = {.scale = arguments.scale,
                                      .causal = arguments.causal,
                                      .has_mask = arguments.mask.has_value(),
                                      .has_sinks = arguments.sinks.has_value(),
                                      .has_origin = arguments.origin.has_value()};
  Arrays inputs = {q, k, v};
  for (const std::optional<mx::array>& given : {arguments.mask, arguments.sinks, arguments.origin}) {
    if (given) {
      inputs.push_back(*given);
    }
  }
  return mx::array({result.shape.begin(), result.shape.end()}, mlx_dtype(result.dtype), std::make_shared<Attention>(s, settings),
                   std::move(inputs));
}

}  // namespace gqmm::mlx
