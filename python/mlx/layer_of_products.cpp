#include "layer_of_products.hpp"

#include "activations.hpp"

#include <mlx/ops.h>

#include <cstdint>
#include <limits>
#include <optional>

namespace gqmm::mlx {
namespace {

class LayerOfProducts {
 public:
  LayerOfProducts(const ExpertLayerArguments& arguments, mx::Stream stream) : a_(arguments), s_(stream) {}

  [[nodiscard]] mx::array build() const {
    const bool all_here = a_.missing == Missing::error && !a_.local_experts;
    const mx::array local = all_here ? a_.topk_ids : local_ids();
    const mx::array here = has_expert(local);
    const auto of_slots_here = [&](const mx::array& slots) {
      return all_here ? slots : mx::where(mx::expand_dims(here, -1, s_), slots, mx::zeros_like(slots, s_), s_);
    };
    const mx::array ids = all_here ? local : mx::where(here, local, mx::zeros_like(local, s_), s_);
    mx::array x = mx::expand_dims(a_.x, -2, s_);
    if (a_.router_weight_on_input) {
      x = of_slots_here(in_type_of_x(mx::multiply(floats(x), weights(), s_)));
    }
    mx::array slots = of_slots_here(in_type_of_x(mx::squeeze(feed_forward(mx::expand_dims(x, -2, s_), a_.experts, ids), -2, s_)));
    if (!a_.topk_weights) {
      return slots;
    }
    const mx::array terms = a_.router_weight_on_input ? floats(slots) : mx::multiply(floats(slots), weights(), s_);
    mx::array sum = mx::sum(terms, -2, false, s_);
    if (a_.shared) {
      sum = mx::add(sum, of_shared_experts(), s_);
    }
    return in_type_of_x(sum);
  }

 private:
  [[nodiscard]] mx::array floats(const mx::array& a) const { return mx::astype(a, mx::float32, s_); }
  [[nodiscard]] mx::array in_type_of_x(const mx::array& a) const { return mx::astype(a, a_.x.dtype(), s_); }
  /// topk_weights as (…, k, 1).
  [[nodiscard]] mx::array weights() const { return mx::expand_dims(floats(*a_.topk_weights), -1, s_); }

  /// The position of each slot's expert in the weights. It is negative, or too large, if they do not hold it.
  [[nodiscard]] mx::array local_ids() const {
    mx::array ids = a_.topk_ids;
    if (ids.dtype() == mx::uint64) {  // beyond the largest int64 it must not become a negative id
      ids = mx::minimum(ids, mx::array(std::uint64_t{std::numeric_limits<std::int64_t>::max()}), s_);
    }
    ids = mx::astype(ids, mx::int64, s_);
    return a_.local_experts ? mx::subtract(ids, mx::array(a_.local_experts->first), s_) : ids;
  }
  [[nodiscard]] mx::array has_expert(const mx::array& local) const {
    const mx::array positive = mx::greater_equal(local, mx::array(0, local.dtype()), s_);
    return a_.local_experts ? mx::logical_and(positive, mx::less(local, mx::array(a_.local_experts->count), s_), s_) : positive;
  }

  /// The results of the shared experts, (…, H) in float32.
  [[nodiscard]] mx::array of_shared_experts() const {
    const mx::array y = feed_forward(mx::expand_dims(a_.x, -2, s_), a_.shared->layers, mx::array(0));
    mx::array result = floats(in_type_of_x(mx::squeeze(y, -2, s_)));
    if (!a_.shared->scale) {
      return result;
    }
    const mx::array& scale = *a_.shared->scale;
    return mx::multiply(result, floats(scale.ndim() < a_.x.ndim() ? mx::expand_dims(scale, -1, s_) : scale), s_);
  }

  [[nodiscard]] mx::array feed_forward(const mx::array& x, const FeedForwardArguments& layers, const mx::array& ids) const {
    mx::array gate = multiply(x, layers.gate, ids);
    std::optional<mx::array> up;
    if (layers.up) {
      up = multiply(x, *layers.up, ids);
    } else if (is_gated(layers.activation)) {
      up = half(gate, a_.order == GateUpOrder::up_gate ? 0 : 1);
      gate = half(gate, a_.order == GateUpOrder::up_gate ? 1 : 0);
    }
    return multiply(activation_in_functions(gate, up, layers.activation, s_), layers.down, ids);
  }

  /// Multiplies matrices of x by those of the experts. A single id selects the shared experts, with or without a dimension for
  /// it.
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
    mx::array y = product();
    if (!linear.bias) {
      return y;
    }
    const mx::array bias = mx::atleast_2d(*linear.bias, s_);
    return mx::add(y, mx::expand_dims(mx::take(bias, ids, 0, s_), -2, s_), s_);
  }

  /// Gate or up of a layer that has both.
  [[nodiscard]] mx::array half(const mx::array& both, int which) const {
    const int I = both.shape(-1) / 2;
    if (a_.order == GateUpOrder::interleaved) {
      return mx::take(mx::unflatten(both, -1, {I, 2}, s_), which, -1, s_);
    }
    return mx::take(mx::unflatten(both, -1, {2, I}, s_), which, -2, s_);
  }

  const ExpertLayerArguments& a_;
  mx::Stream s_;
};

}  // namespace

mx::array layer_of_products(const ExpertLayerArguments& arguments, mx::Stream stream) {
  return LayerOfProducts(arguments, stream).build();
}

}  // namespace gqmm::mlx
