#include "gated_delta.hpp"

#include "arrays.hpp"
#include "functions.hpp"
#include "indexing.hpp"
#include "recurrence.hpp"

#include <gqmm/gated_delta.hpp>
#include <gqmm/infer.hpp>

#include <mlx/ops.h>
#include <mlx/primitives.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
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

class GatedDelta final : public Recurrence {
 public:
  GatedDelta(mx::Stream stream, const GatedDeltaSettings& settings)
      : Recurrence(stream, settings.has_state ? std::optional<std::size_t>(5) : std::nullopt), settings_(settings) {}

  [[nodiscard]] const char* name() const override { return "GqmmGatedDelta"; }
  [[nodiscard]] bool is_equivalent(const Primitive& other) const override {
    return settings_ == static_cast<const GatedDelta&>(other).settings_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override {
    const mx::array& v = inputs[2];
    return {v.shape(), {v.shape(0), v.shape(2), v.shape(3), inputs[1].shape(3)}};
  }
  std::pair<Arrays, std::vector<int>> vmap(const Arrays& inputs, const std::vector<int>& axes) override {
    const auto update = [&](const Arrays& arrays) {
      return as_vector(gated_delta_update(settings_.arguments(arrays, stream())));
    };
    return {one_call_for_both_batches(inputs, axes, {}, stream(), update), {0, 0}};
  }

 protected:
  [[nodiscard]] std::function<void(Arrays&)> task_of(Arrays inputs) override {
    return [inputs = std::move(inputs), settings = settings_, s = stream()](Arrays& results) {
      const GatedDeltaArguments a = settings.arguments(inputs, s);
      GatedDeltaOptions options = options_of(a, [](const mx::array& array) { return view_of(array); });
      options.out = writable_view_of(results[0]);
      options.state_out = writable_view_of(results[1]);
      gqmm::gated_delta_update(view_of(a.q), view_of(a.k), view_of(a.v), view_of(a.g), view_of(a.beta), options);
    };
  }
  Arrays composed(const Arrays& inputs) override { return in_functions(settings_.arguments(inputs, stream()), stream()); }

 private:
  GatedDeltaSettings settings_;
};

/// The shapes and types of the results. Throws std::invalid_argument as gqmm::gated_delta_update does.
GatedDeltaTypes types_of(const GatedDeltaArguments& a) {
  return infer_gated_delta_update(outline_of(a.q), outline_of(a.k), outline_of(a.v), outline_of(a.g), outline_of(a.beta),
                                  options_of(a, [](const mx::array& array) { return outline_of(array); }));
}

}  // namespace

std::pair<mx::array, mx::array> gated_delta_update(const GatedDeltaArguments& arguments) {
  const mx::Stream s = mx::to_stream(arguments.stream);
  const GatedDeltaTypes types = types_of(arguments);
  if (!is_on_cpu(s)) {
    ++counts().gated_delta_update.stock;
    return as_pair(in_functions(arguments, s));
  }
  ++counts().gated_delta_update.ours;
  const GatedDeltaSettings settings = {.has_state = arguments.state.has_value(), .has_mask = arguments.mask.has_value()};
  const Arrays operands = {arguments.q, arguments.k, arguments.v, arguments.g, arguments.beta};
  return make_results(types.y, types.state, std::make_shared<GatedDelta>(s, settings),
                      with_given(operands, {arguments.state, arguments.mask}));
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
