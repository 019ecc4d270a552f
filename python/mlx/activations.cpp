#include "activations.hpp"

#include "arrays.hpp"
#include "composed.hpp"
#include "functions.hpp"
#include "product.hpp"

#include <gqmm/infer.hpp>

#include <mlx/ops.h>
#include <mlx/primitives.h>

#include <cmath>
#include <memory>
#include <numbers>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

namespace gqmm::mlx {
namespace {

using Arrays = std::vector<mx::array>;

/// An activation in MLX's functions.
struct InFunctions {
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

/// The inputs are gate, and up if the activation is gated.
class Activate final : public Composed {
 public:
  Activate(mx::Stream stream, const Activation& activation) : Composed(stream), activation_(activation) {}

  [[nodiscard]] const char* name() const override { return "GqmmActivate"; }
  [[nodiscard]] bool is_equivalent(const Primitive& other) const override {
    return activation_ == static_cast<const Activate&>(other).activation_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override { return {inputs[0].shape()}; }
  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    evaluate_on_stream(stream(), inputs, outputs.front(), [weak = weak_copies(inputs), activation = activation_](mx::array& h) {
      gqmm::activate(view_of(weak[0]), weak.size() > 1 ? std::optional(view_of(weak[1])) : std::nullopt, activation,
                     {.out = writable_view_of(h)});
    });
  }
  std::pair<Arrays, std::vector<int>> vmap(const Arrays& inputs, const std::vector<int>& axes) override {
    const Arrays batched = batch_in_front(inputs, axes, inputs.size(), stream());
    return {{mlx::activate(batched[0], up_of(batched), activation_, stream())}, {0}};
  }

 protected:
  Arrays composed(const Arrays& inputs) override {
    return {activation_in_functions(inputs[0], up_of(inputs), activation_, stream())};
  }

 private:
  static std::optional<mx::array> up_of(const Arrays& inputs) {
    return inputs.size() > 1 ? std::optional(inputs[1]) : std::nullopt;
  }

  Activation activation_;
};

}  // namespace

mx::array activation_in_functions(const mx::array& gate, const std::optional<mx::array>& up, const Activation& activation,
                                  mx::Stream stream) {
  return std::visit(InFunctions{gate, up, stream}, activation);
}

bool serves_activation(const mx::array& gate, const std::optional<mx::array>& up, mx::StreamOrDevice stream) {
  return is_on_cpu(mx::to_stream(stream)) && is_compute_type(gate) &&
         (!up || (up->dtype() == gate.dtype() && up->shape() == gate.shape()));
}

mx::array activate(const mx::array& gate, const std::optional<mx::array>& up, const Activation& activation,
                   mx::StreamOrDevice stream) {
  const mx::Stream s = mx::to_stream(stream);
  std::ignore = infer_activate(outline_of(gate), up ? std::optional(outline_of(*up)) : std::nullopt, activation);
  if (!is_on_cpu(s)) {
    ++counts().activations.stock;
    return activation_in_functions(gate, up, activation, s);
  }
  ++counts().activations.ours;
  Arrays inputs = {gate};
  if (up) {
    inputs.push_back(*up);
  }
  return mx::array(gate.shape(), gate.dtype(), std::make_shared<Activate>(s, activation), std::move(inputs));
}

}  // namespace gqmm::mlx
