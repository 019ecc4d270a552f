#include "ssm.hpp"

#include "arrays.hpp"
#include "functions.hpp"
#include "indexing.hpp"
#include "recurrence.hpp"

#include <gqmm/infer.hpp>

#include <mlx/ops.h>
#include <mlx/primitives.h>

#include <algorithm>
#include <cstddef>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <stdexcept>
#include <tuple>
#include <utility>
#include <vector>

namespace gqmm::mlx {
namespace {

using Arrays = std::vector<mx::array>;

/// The inputs of the primitive that all calls have. Those of the settings that there are follow in their order.
constexpr std::size_t operands_of_ssm = 7;

struct SsmSettings {
  float smallest_step = 0;
  float largest_step = 0;
  bool has_state = false;
  bool has_mask = false;
  bool has_lengths = false;
  friend bool operator==(const SsmSettings&, const SsmSettings&) = default;

  [[nodiscard]] SsmArguments arguments(const Arrays& inputs, mx::Stream stream) const {
    SsmArguments arguments = {.hidden_states = inputs[0],
                              .A_log = inputs[1],
                              .B = inputs[2],
                              .C = inputs[3],
                              .D = inputs[4],
                              .dt = inputs[5],
                              .dt_bias = inputs[6],
                              .time_step_limit = {.smallest = smallest_step, .largest = largest_step},
                              .stream = stream};
    std::size_t next = operands_of_ssm;
    for (const auto& [is_given, argument] :
         {std::pair(has_state, &arguments.state), {has_mask, &arguments.mask}, {has_lengths, &arguments.lengths}}) {
      if (is_given) {
        *argument = inputs[next++];
      }
    }
    return arguments;
  }
};

/// The options of the library; view(array) gives its arrays.
template <class View>
SsmOptions options_of(const SsmArguments& a, const View& view) {
  SsmOptions options;
  options.time_step_limit = a.time_step_limit;
  for (const auto& [given, option] :
       {std::pair(&a.state, &options.state), {&a.mask, &options.mask}, {&a.lengths, &options.lengths}}) {
    if (*given) {
      *option = view(**given);
    }
  }
  return options;
}

/// The shapes and types of the results. Throws std::invalid_argument as gqmm::ssm_update does.
SsmTypes types_of(const SsmArguments& a) {
  return infer_ssm_update(outline_of(a.hidden_states), outline_of(a.A_log), outline_of(a.B), outline_of(a.C), outline_of(a.D),
                          outline_of(a.dt), outline_of(a.dt_bias),
                          options_of(a, [](const mx::array& array) { return outline_of(array); }));
}

/// The tokens that count, (B, T), if there are others.
std::optional<mx::array> counted_tokens(const SsmArguments& a, mx::Stream s) {
  if (!a.lengths) {
    return a.mask;
  }
  const mx::array places = mx::arange(a.hidden_states.shape(1), s);
  const mx::array within = mx::less(mx::expand_dims(places, 0, s), mx::expand_dims(*a.lengths, 1, s), s);
  return a.mask ? mx::logical_and(within, *a.mask, s) : within;
}

/// Tokens in the layout of products of matrices, in float32: (batch, heads, tokens, depth).
struct HeadsOfTokens {
  mx::array added;  // Δ · x
  mx::array rate;   // (batch, heads, tokens): −A · Δ
  mx::array B;
  mx::array C;
};

mx::array tokens_from(const mx::array& a, int first, int count, mx::Stream s) {
  mx::Shape begin(a.ndim(), 0);
  mx::Shape end = a.shape();
  begin[2] = first;
  end[2] = first + count;
  return mx::slice(a, begin, end, s);
}

/// Some tokens at once: y without D · x, and the next state. What a token added has decayed at a later one by the exponential of
/// the sum of the rates between.
std::pair<mx::array, mx::array> tokens_at_once(const HeadsOfTokens& tokens, const mx::array& state, mx::Stream s) {
  const int count = tokens.rate.shape(2);
  const mx::array sums = mx::cumsum(tokens.rate, 2, false, true, s);
  const mx::array between = mx::subtract(mx::expand_dims(sums, 3, s), mx::expand_dims(sums, 2, s), s);
  const mx::array never = mx::array(-std::numeric_limits<float>::infinity());
  const mx::array decay = mx::exp(mx::where(mx::tri(count, count, 0, mx::bool_, s), between, never, s), s);
  const mx::array scores = mx::matmul(tokens.C, mx::swapaxes(tokens.B, 2, 3, s), s);
  const mx::array of_tokens = mx::matmul(mx::multiply(scores, decay, s), tokens.added, s);
  const mx::array of_state = mx::matmul(tokens.C, mx::swapaxes(state, 2, 3, s), s);
  const mx::array y = mx::add(of_tokens, mx::multiply(mx::exp(mx::expand_dims(sums, 3, s), s), of_state, s), s);
  const mx::array last = tokens_from(sums, count - 1, 1, s);
  const mx::array left = mx::multiply(tokens.added, mx::exp(mx::expand_dims(mx::subtract(last, sums, s), 3, s), s), s);
  const mx::array kept = mx::multiply(mx::exp(mx::expand_dims(last, 3, s), s), state, s);
  return {y, mx::add(kept, mx::matmul(mx::swapaxes(left, 2, 3, s), tokens.B, s), s)};
}

/// The recurrence in MLX's functions, in pieces of 256 tokens, as ssm_attn of mlx-lm has it.
Arrays in_functions(SsmArguments a, mx::Stream s) {
  constexpr int piece = 256;
  const SsmTypes types = types_of(a);
  const int heads = a.hidden_states.shape(2);
  const mx::Shape of_state(types.state.shape.begin(), types.state.shape.end());
  mx::array state = a.state ? *a.state : mx::zeros(of_state, mx::float32, s);
  if (a.hidden_states.size() == 0) {
    return {mx::zeros(a.hidden_states.shape(), mlx_dtype(types.y.dtype), s), state};
  }
  const std::optional<mx::array> counted = counted_tokens(a, s);
  if (counted) {  // with these values a token changes no state, and its y is zero
    for (mx::array* const operand : {&a.hidden_states, &a.B, &a.C, &a.dt}) {
      *operand = where_counted(*counted, *operand, 0, s);
    }
  }
  const auto wide = [&](const mx::array& array) { return mx::astype(array, mx::float32, s); };
  const mx::array softplus = mx::logaddexp(mx::add(wide(a.dt), a.dt_bias, s), mx::array(0.0F), s);
  mx::array steps = mx::clip(softplus, mx::array(a.time_step_limit.smallest), mx::array(a.time_step_limit.largest), s);
  if (counted) {
    steps = where_counted(*counted, steps, 0, s);
  }
  const mx::array x = wide(a.hidden_states);
  const int heads_of_group = heads / a.B.shape(2);
  const auto of_heads = [&](const mx::array& array) { return mx::swapaxes(array, 1, 2, s); };
  const auto of_groups = [&](const mx::array& array) { return mx::repeat(of_heads(wide(array)), heads_of_group, 1, s); };
  const mx::array rates = mx::multiply(steps, mx::negative(mx::exp(wide(a.A_log), s), s), s);
  const HeadsOfTokens all = {.added = of_heads(mx::multiply(mx::expand_dims(steps, 3, s), x, s)),
                             .rate = of_heads(rates),
                             .B = of_groups(a.B),
                             .C = of_groups(a.C)};
  Arrays parts;
  for (int first = 0; first < x.shape(1); first += piece) {
    const int count = std::min(piece, x.shape(1) - first);
    const auto part = [&](const mx::array& array) { return tokens_from(array, first, count, s); };
    const auto [y, next] = tokens_at_once({part(all.added), part(all.rate), part(all.B), part(all.C)}, state, s);
    parts.push_back(of_heads(y));
    state = next;
  }
  const mx::array skipped = mx::multiply(x, mx::expand_dims(wide(a.D), 1, s), s);
  const mx::array y = mx::add(mx::concatenate(parts, 1, s), skipped, s);
  return {mx::astype(y, mlx_dtype(types.y.dtype), s), state};
}

class Ssm final : public Recurrence {
 public:
  Ssm(mx::Stream stream, const SsmSettings& settings)
      : Recurrence(stream, settings.has_state ? std::optional(operands_of_ssm) : std::nullopt), settings_(settings) {}

  [[nodiscard]] const char* name() const override { return "GqmmSsm"; }
  [[nodiscard]] bool is_equivalent(const Primitive& other) const override {
    return settings_ == static_cast<const Ssm&>(other).settings_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override {
    const mx::array& x = inputs[0];
    return {x.shape(), {x.shape(0), x.shape(2), x.shape(3), inputs[2].shape(3)}};
  }
  std::pair<Arrays, std::vector<int>> vmap(const Arrays& inputs, const std::vector<int>& axes) override {
    const std::vector<std::size_t> of_heads = {1, 4, 6};  // A_log, D and dt_bias, which one call has once
    if (std::any_of(of_heads.begin(), of_heads.end(), [&](std::size_t i) { return axes[i] >= 0; })) {
      return Recurrence::vmap(inputs, axes);
    }
    const auto update = [&](const Arrays& arrays) { return as_vector(ssm_update(settings_.arguments(arrays, stream()))); };
    return {one_call_for_both_batches(inputs, axes, of_heads, stream(), update), {0, 0}};
  }

 protected:
  [[nodiscard]] std::function<void(Arrays&)> task_of(Arrays inputs) override {
    return [inputs = std::move(inputs), settings = settings_, s = stream()](Arrays& results) {
      const SsmArguments a = settings.arguments(inputs, s);
      SsmOptions options = options_of(a, [](const mx::array& array) { return view_of(array); });
      options.out = writable_view_of(results[0]);
      options.state_out = writable_view_of(results[1]);
      gqmm::ssm_update(view_of(a.hidden_states), view_of(a.A_log), view_of(a.B), view_of(a.C), view_of(a.D), view_of(a.dt),
                       view_of(a.dt_bias), options);
    };
  }
  Arrays composed(const Arrays& inputs) override { return in_functions(settings_.arguments(inputs, stream()), stream()); }

 private:
  SsmSettings settings_;
};

}  // namespace

std::pair<mx::array, mx::array> ssm_update(const SsmArguments& arguments) {
  const mx::Stream s = mx::to_stream(arguments.stream);
  const SsmTypes types = types_of(arguments);
  if (!is_on_cpu(s)) {
    ++counts().ssm_update.stock;
    return as_pair(in_functions(arguments, s));
  }
  ++counts().ssm_update.ours;
  const SsmSettings settings = {.smallest_step = arguments.time_step_limit.smallest,
                                .largest_step = arguments.time_step_limit.largest,
                                .has_state = arguments.state.has_value(),
                                .has_mask = arguments.mask.has_value(),
                                .has_lengths = arguments.lengths.has_value()};
  const auto& [x, A_log, B, C, D, dt, dt_bias, state, limit, mask, lengths, stream] = arguments;
  return make_results(types.y, types.state, std::make_shared<Ssm>(s, settings),
                      with_given({x, A_log, B, C, D, dt, dt_bias}, {state, mask, lengths}));
}

bool serves_ssm(const SsmArguments& arguments) {
  if (!is_on_cpu(mx::to_stream(arguments.stream))) {
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
