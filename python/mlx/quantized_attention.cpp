#include "quantized_attention.hpp"

#include "arrays.hpp"
#include "composed.hpp"
#include "functions.hpp"
#include "product.hpp"

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

/// The inputs of the primitive are q, three arrays of the keys, and three of the values. The mask and the origin follow if they
/// are given.
struct QuantizedAttentionSettings {
  float scale = 1;
  bool causal = false;
  bool has_mask = false;
  bool has_origin = false;
  int group_size = 64;
  int bits = 8;
  friend bool operator==(const QuantizedAttentionSettings&, const QuantizedAttentionSettings&) = default;

  [[nodiscard]] QuantizedAttentionArguments arguments(const Arrays& inputs, mx::Stream stream) const {
    QuantizedAttentionArguments arguments = {
        .scale = scale, .causal = causal, .group_size = group_size, .bits = bits, .stream = stream};
    std::size_t next = 7;
    if (has_mask) {
      arguments.mask = inputs[next++];
    }
    if (has_origin) {
      arguments.origin = inputs[next++];
    }
    return arguments;
  }
};

QuantizedHeads keys_of(const Arrays& inputs) { return {inputs[1], inputs[2], inputs[3]}; }
QuantizedHeads values_of(const Arrays& inputs) { return {inputs[4], inputs[5], inputs[6]}; }

/// The library's weights; view(array) gives its arrays.
template <class View>
QuantizedWeights weights_of(const QuantizedHeads& heads, const QuantizedAttentionArguments& arguments, const View& view) {
  const auto& [w, scales, biases] = heads;
  return {
      .w = view(w), .scales = view(scales), .biases = view(biases), .bits = arguments.bits, .group_size = arguments.group_size};
}

template <class View>
QuantizedAttentionOptions options_of(const QuantizedAttentionArguments& arguments, const View& view) {
  QuantizedAttentionOptions options;
  if (arguments.causal) {
    options.mask = CausalMask();
  } else if (arguments.mask) {
    options.mask = view(*arguments.mask);
  }
  if (arguments.origin) {
    options.origin = view(*arguments.origin);
  }
  return options;
}

mx::Dtype type_of_result(const mx::array& q, const QuantizedHeads& q_keys, const QuantizedHeads& q_values) {
  mx::Dtype type = q.dtype();
  for (const QuantizedHeads* const heads : {&q_keys, &q_values}) {
    type = mx::promote_types(type, mx::promote_types(std::get<1>(*heads).dtype(), std::get<2>(*heads).dtype()));
  }
  return type;
}

/// The scores as the mask leaves them, (B, Hq, T, L).
mx::array masked(const mx::array& scores, const QuantizedAttentionArguments& arguments, mx::Stream s) {
  std::optional<mx::array> mask = arguments.mask;
  if (arguments.causal) {
    const int T = scores.shape(-2);
    const int L = scores.shape(-1);
    mask = mx::greater_equal(mx::expand_dims(mx::arange(L - T, L, s), 1, s), mx::arange(L, s), s);
  }
  if (!mask) {
    return scores;
  }
  if (mask->dtype() == mx::bool_) {
    return mx::where(*mask, scores, mx::array(mx::finfo(scores.dtype()).min, scores.dtype()), s);
  }
  return mx::add(scores, *mask, s);
}

/// The graph of MLX's functions that mlx-lm has for it: two products of quantized matrices and a softmax.
mx::array composed_attention(const mx::array& q, const QuantizedHeads& q_keys, const QuantizedHeads& q_values,
                             const QuantizedAttentionArguments& arguments, mx::Stream s) {
  const int B = q.shape(0);
  const int q_heads = q.shape(1);
  const int T = q.shape(2);
  const int kv_heads = std::get<0>(q_keys).shape(1);
  const int L = std::get<0>(q_keys).shape(2);
  const mx::Shape grouped = {B, kv_heads, kv_heads == 0 ? 0 : q_heads / kv_heads, T};
  if (q.size() == 0 || L == 0) {  // MLX's product of quantized matrices divides by these extents
    return mx::zeros({B, q_heads, T, std::get<0>(q_values).shape(-1) * 32 / arguments.bits}, type_of_result(q, q_keys, q_values),
                     s);
  }
  const auto with = [](mx::Shape shape, int last) {
    shape.push_back(last);
    return shape;
  };
  // The heads of q that share a head of keys and values lie along a dimension of their own.
  const auto multiply = [&](const mx::array& x, const QuantizedHeads& heads, bool transpose) {
    const auto& [w, scales, biases] = heads;
    const auto shared = [&](const mx::array& a) { return mx::expand_dims(a, 2, s); };
    return mx::quantized_matmul(mx::reshape(x, with(grouped, x.shape(-1)), s), shared(w), shared(scales), shared(biases),
                                transpose, arguments.group_size, arguments.bits, "affine", s);
  };
  const mx::array scaled = mx::multiply(q, mx::array(arguments.scale, q.dtype()), s);
  const mx::array scores = mx::reshape(multiply(scaled, q_keys, true), {B, q_heads, T, L}, s);
  const mx::array weights = mx::softmax(masked(scores, arguments, s), std::vector<int>{-1}, true, s);
  const mx::array y = multiply(weights, q_values, false);
  return mx::reshape(y, {B, q_heads, T, y.shape(-1)}, s);
}

class QuantizedAttention final : public Composed {
 public:
  QuantizedAttention(mx::Stream stream, const QuantizedAttentionSettings& settings) : Composed(stream), settings_(settings) {}

  [[nodiscard]] const char* name() const override { return "GqmmQuantizedAttention"; }
  [[nodiscard]] bool is_equivalent(const Primitive& other) const override {
    return settings_ == static_cast<const QuantizedAttention&>(other).settings_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override {
    mx::Shape shape = inputs[0].shape();
    shape.back() = inputs[4].shape(-1) * 32 / settings_.bits;
    return {shape};
  }
  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    evaluate_on_stream(
        stream(), inputs, outputs.front(), [weak = weak_copies(inputs), settings = settings_, s = stream()](mx::array& y) {
          const auto view = [](const mx::array& a) { return view_of(a); };
          const QuantizedAttentionArguments arguments = settings.arguments(weak, s);
          QuantizedAttentionOptions options = options_of(arguments, view);
          options.out = writable_view_of(y);
          gqmm::quantized_scaled_dot_product_attention(view_of(weak[0]), weights_of(keys_of(weak), arguments, view),
                                                       weights_of(values_of(weak), arguments, view), arguments.scale, options);
        });
  }
  std::pair<Arrays, std::vector<int>> vmap(const Arrays& inputs, const std::vector<int>& axes) override {
    return {{stack_of_calls(inputs, axes, stream(),
                            [&](const Arrays& one) {
                              return mlx::quantized_scaled_dot_product_attention(one[0], keys_of(one), values_of(one),
                                                                                 settings_.arguments(one, stream()));
                            })},
            {0}};
  }

 protected:
  Arrays composed(const Arrays& inputs) override {
    return {composed_attention(inputs[0], keys_of(inputs), values_of(inputs), settings_.arguments(inputs, stream()), stream())};
  }

 private:
  QuantizedAttentionSettings settings_;
};

/// Whether gqmm has an operator for these types. All others, and other devices than the CPU, are left to MLX's functions.
bool serves(const Arrays& operands, const QuantizedAttentionArguments& a, mx::Stream stream) {
  for (std::size_t i = 0; i < operands.size(); ++i) {
    const bool is_codes = i == 1 || i == 4;
    if (is_codes ? operands[i].dtype() != mx::uint32 : !is_compute_type(operands[i])) {
      return false;
    }
  }
  // In MLX's functions, a mask of a wider type would give the result that type.
  const auto fits = [&](const mx::array& mask) {
    const mx::Dtype type = type_of_result(operands[0], keys_of(operands), values_of(operands));
    return mask.dtype() == mx::bool_ || (is_compute_type(mask) && mx::promote_types(mask.dtype(), type) == type);
  };
  return is_on_cpu(stream) && (!a.mask || fits(*a.mask));
}

}  // namespace

mx::array quantized_scaled_dot_product_attention(const mx::array& q, const QuantizedHeads& q_keys, const QuantizedHeads& q_values,
                                                 const QuantizedAttentionArguments& arguments) {
  const mx::Stream s = mx::to_stream(arguments.stream);
  Arrays inputs = {q,
                   std::get<0>(q_keys),
                   std::get<1>(q_keys),
                   std::get<2>(q_keys),
                   std::get<0>(q_values),
                   std::get<1>(q_values),
                   std::get<2>(q_values)};
  const bool four_dimensions = q.ndim() == 4 && inputs[1].ndim() == 4 && inputs[4].ndim() == 4;
  if (four_dimensions && !serves(inputs, arguments, s)) {
    ++counts().quantized_scaled_dot_product_attention.stock;
    return composed_attention(q, q_keys, q_values, arguments, s);
  }
  const auto outline = [](const mx::array& a) { return outline_of(a); };
  const ResultType result = infer_quantized_scaled_dot_product_attention(outline_of(q), weights_of(q_keys, arguments, outline),
                                                                         weights_of(q_values, arguments, outline),
                                                                         arguments.scale, options_of(arguments, outline));
  ++counts().quantized_scaled_dot_product_attention.ours;
  const QuantizedAttentionSettings settings = {.scale = arguments.scale,
                                               .causal = arguments.causal,
                                               .has_mask = arguments.mask.has_value(),
                                               .has_origin = arguments.origin.has_value(),
                                               .group_size = arguments.group_size,
                                               .bits = arguments.bits};
  for (const std::optional<mx::array>& given : {arguments.mask, arguments.origin}) {
    if (given) {
      inputs.push_back(*given);
    }
  }
  return mx::array({result.shape.begin(), result.shape.end()}, mlx_dtype(result.dtype),
                   std::make_shared<QuantizedAttention>(s, settings), std::move(inputs));
}

}  // namespace gqmm::mlx
