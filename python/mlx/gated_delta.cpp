#include "gated_delta.hpp"

#include "arrays.hpp"
#include "composed.hpp"
#include "functions.hpp"
#include "indexing.hpp"
#include "product.hpp"

#include <gqmm/gated_delta.hpp>
#include <gqmm/infer.hpp>

#include <mlx/ops.h>
#include <mlx/primitives.h>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <stdexcept>
#include <tuple>
#include <utility>
#include <vector>

namespace gqmm::mlx {
namespace {

using Arrays = std::vector<mx::array>;

/// What the inputs of the primitive are: q, k, v, g and beta, then those of these that there are.
struct GatedDeltaSettings {
  bool has_state = false;
  bool has_mask = false;
  friend bool operator==(const GatedDeltaSettings&, const GatedDeltaSettings&) = default;

  [[nodiscard]] GatedDeltaArguments arguments(const Arrays& inputs, mx::Stream stream) const {
    GatedDeltaArguments arguments = {
        .q = inputs[0], .k = inputs[1], .v = inputs[2], .g = inputs[3], .beta = inputs[4], .stream = stream};
    if (has_state) {
      arguments.state = inputs[5];
    }
    if (has_mask) {
      arguments.mask = inputs.back();
    }
    return arguments;
  }
};

/// The options of the library; view(array) gives its arrays.
template <class View>
GatedDeltaOptions options_of(const GatedDeltaArguments& a, const View& view) {
  GatedDeltaOptions options;
  if (a.state) {
    options.state = view(*a.state);
  }
  if (a.mask) {
    options.mask = view(*a.mask);
  }
  return options;
}

/// The arrays of each token. An array has the tokens along dimension 1, which goes.
Arrays of_tokens(const mx::array& a, mx::Stream s) {
  Arrays tokens = mx::split(a, a.shape(1), 1, s);
  for (mx::array& token : tokens) {
    token = mx::squeeze(token, 1, s);
  }
  return tokens;
}

/// An array with dimensions (B, T, …) where the mask is true, and `other` elsewhere.
mx::array where_counted(const mx::array& mask, const mx::array& a, float other, mx::Stream s) {
  const mx::array counted = mx::reshape(mask, concatenate(mask.shape(), mx::Shape(a.ndim() - 2, 1)), s);
  return mx::where(counted, a, mx::array(other, a.dtype()), s);
}

/// The rule in MLX's functions, token by token, as gated_delta_ops of mlx-lm has it.
Arrays in_functions(GatedDeltaArguments a, mx::Stream s) {
  const int heads = a.v.shape(2);
  const mx::Shape of_state = {a.v.shape(0), heads, a.v.shape(3), a.k.shape(3)};
  mx::array state = a.state ? *a.state : mx::zeros(of_state, mx::float32, s);
  const mx::Dtype type = a.q.dtype();
  if (a.v.size() == 0 || of_state[3] == 0) {
    return {mx::zeros(a.v.shape(), type, s), state};
  }
  if (a.mask) {  // with these values a token changes no state, and its y is zero
    for (mx::array* const operand : {&a.q, &a.k, &a.v, &a.beta}) {
      *operand = where_counted(*a.mask, *operand, 0, s);
    }
    a.g = where_counted(*a.mask, a.g, 1, s);
  }
  const int heads_of_k_head = heads / a.k.shape(2);
  const Arrays q = of_tokens(mx::repeat(a.q, heads_of_k_head, 2, s), s);
  const Arrays k = of_tokens(mx::repeat(a.k, heads_of_k_head, 2, s), s);
  const Arrays v = of_tokens(a.v, s);
  const Arrays g = of_tokens(a.g.ndim() == 4 ? a.g : mx::expand_dims(a.g, 3, s), s);
  const Arrays beta = of_tokens(mx::expand_dims(a.beta, 3, s), s);
  Arrays y;
  for (std::size_t t = 0; t < q.size(); ++t) {
    const mx::array k_row = mx::expand_dims(k[t], 2, s);
    const mx::array decayed = mx::multiply(state, mx::expand_dims(g[t], 2, s), s);
    const mx::array known = mx::sum(mx::multiply(decayed, k_row, s), -1, false, s);
    const mx::array delta = mx::multiply(mx::subtract(v[t], known, s), beta[t], s);
    state = mx::add(decayed, mx::multiply(k_row, mx::expand_dims(delta, 3, s), s), s);
    y.push_back(mx::sum(mx::multiply(state, mx::expand_dims(q[t], 2, s), s), -1, false, s));
  }
  return {mx::astype(mx::stack(y, 1, s), type, s), state};
}

/// Gives the memory of the state to the new one, if nothing else needs it. A token then reads and writes one state and not two.
/// Each output of a primitive holds the inputs, so the other outputs count as users of the state's memory. They let go of it for
/// the question whether it may be given away. No transform may trace the outputs, because it would need the state.
void reuse_memory(const Arrays& inputs, const mx::array& state, Arrays& outputs, mx::array& next) {
  if (std::any_of(outputs.begin(), outputs.end(), [](const mx::array& output) { return output.is_tracer(); })) {
    return;
  }
  const auto for_each_other = [&](const auto& function) {
    for (mx::array& output : outputs) {
      if (&output.inputs() != &inputs) {
        function(output.inputs());
      }
    }
  };
  for_each_other([](Arrays& held) { held.clear(); });
  if (state.is_donatable() && state.flags().row_contiguous && state.data_size() == state.size()) {
    next.copy_shared_buffer(state);
  }
  for_each_other([&](Arrays& held) { held = inputs; });  // a vector that has been cleared has room for them
}

class GatedDelta final : public Composed {
 public:
  GatedDelta(mx::Stream stream, const GatedDeltaSettings& settings) : Composed(stream), settings_(settings) {}

  [[nodiscard]] const char* name() const override { return "GqmmGatedDelta"; }
  [[nodiscard]] bool is_equivalent(const Primitive& other) const override {
    return settings_ == static_cast<const GatedDelta&>(other).settings_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override {
    const mx::array& v = inputs[2];
    return {v.shape(), {v.shape(0), v.shape(2), v.shape(3), inputs[1].shape(3)}};
  }
  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    if (settings_.has_state) {
      reuse_memory(inputs, inputs[5], outputs, outputs[1]);
    }
    evaluate_on_stream(
        stream(), inputs, outputs, [weak = weak_copies(inputs), settings = settings_, s = stream()](Arrays& results) {
          const GatedDeltaArguments a = settings.arguments(weak, s);
          GatedDeltaOptions options = options_of(a, [](const mx::array& array) { return view_of(array); });
          options.out = writable_view_of(results[0]);
          options.state_out = writable_view_of(results[1]);
          gqmm::gated_delta_update(view_of(a.q), view_of(a.k), view_of(a.v), view_of(a.g), view_of(a.beta), options);
        });
  }
  /// One call computes the elements of both batches.
  std::pair<Arrays, std::vector<int>> vmap(const Arrays& inputs, const std::vector<int>& axes) override {
    Arrays moved = batch_in_front(inputs, axes, inputs.size(), stream());
    const mx::Shape batches = {moved[0].shape(0), moved[0].shape(1)};
    for (mx::array& input : moved) {
      input = mx::flatten(input, 0, 1, stream());
    }
    const auto [y, state] = gated_delta_update(settings_.arguments(moved, stream()));
    return {{mx::unflatten(y, 0, batches, stream()), mx::unflatten(state, 0, batches, stream())}, {0, 0}};
  }

 protected:
  Arrays composed(const Arrays& inputs) override { return in_functions(settings_.arguments(inputs, stream()), stream()); }

 private:
  GatedDeltaSettings settings_;
};

/// The shapes and types of the results. Throws std::invalid_argument as gqmm::gated_delta_update does.
GatedDeltaTypes types_of(const GatedDeltaArguments& a) {
  return infer_gated_delta_update(outline_of(a.q), outline_of(a.k), outline_of(a.v), outline_of(a.g), outline_of(a.beta),
                                  options_of(a, [](const mx::array& array) { return outline_of(array); }));
}

bool is_on_cpu(mx::Stream stream) { return stream.device == mx::Device::cpu; }

}  // namespace

std::pair<mx::array, mx::array> gated_delta_update(const GatedDeltaArguments& arguments) {
  const mx::Stream s = mx::to_stream(arguments.stream);
  const GatedDeltaTypes types = types_of(arguments);
  if (!is_on_cpu(s)) {
    ++counts().gated_delta_update.stock;
    const Arrays results = in_functions(arguments, s);
    return {results[0], results[1]};
  }
  ++counts().gated_delta_update.ours;
  Arrays inputs = {arguments.q, arguments.k, arguments.v, arguments.g, arguments.beta};
  for (const std::optional<mx::array>& given : {arguments.state, arguments.mask}) {
    if (given) {
      inputs.push_back(*given);
    }
  }
  const GatedDeltaSettings settings = {.has_state = arguments.state.has_value(), .has_mask = arguments.mask.has_value()};
  const auto shape = [](const ResultType& type) { return mx::Shape(type.shape.begin(), type.shape.end()); };
  const Arrays results =
      mx::array::make_arrays({shape(types.y), shape(types.state)}, {mlx_dtype(types.y.dtype), mlx_dtype(types.state.dtype)},
                             std::make_shared<GatedDelta>(s, settings), inputs);
  return {results[0], results[1]};
}

bool serves_gated_delta(const GatedDeltaArguments& arguments) {
  const mx::Dtype type = arguments.q.dtype();
  if (!is_on_cpu(mx::to_stream(arguments.stream)) || arguments.k.dtype() != type || arguments.v.dtype() != type) {
    return false;
  }
  try {
    std::ignore = types_of(arguments);
    return true;
  } catch (const std::invalid_argument&) {
    return false;
  }
}

}  // namespace gqmm::mlx
