// Activations: their constants, and the operator.
#include "cpu/activate.hpp"

#include "api/check.hpp"
#include "api/output.hpp"
#include "arrays/views.hpp"
#include "threads/node_binding.hpp"

#include <gqmm/activation.hpp>
#include <gqmm/infer.hpp>

#include <array>
#include <cmath>
#include <cstdint>

namespace gqmm {

using namespace detail;

namespace {

constexpr std::string_view activate_op = "activate";
constexpr std::array<std::string_view, std::variant_size_v<Activation>> names = {"SwiGLU", "GeGLU", "SiTU", "SwiGLUStep",
                                                                                 "SiLU",   "GELU",  "ReLU2"};

/// Checks constants of one activation.
class ConstantCheck {
 public:
  ConstantCheck(const Activation& activation, std::string_view op) : op_(op), activation_(name_of(activation)) {}

  void operator()(const SwiGLU& a) const {
    positive("alpha", a.alpha, "use 1 for silu");
    if (a.limit) {
      positive("limit", *a.limit, "leave it out to clip nothing");
    }
    if (!std::isfinite(a.bias)) {
      fail(op_, "bias = {} of {} is not finite; use 0 for none", a.bias, activation_);
    }
  }
  void operator()(const GeGLU& a) const { approximation(a.approximate); }
  void operator()(const SiTU& a) const {
    positive("beta", a.beta, "give the model's");
    if (a.linear_beta) {
      positive("linear_beta", *a.linear_beta, "leave it out to take up as it is");
    }
  }
  void operator()(const SwiGLUStep& a) const { positive("limit", a.limit, "give the model's, or use SwiGLU to clip nothing"); }
  void operator()(const SiLU&) const {}
  void operator()(const GELU& a) const { approximation(a.approximate); }
  void operator()(const ReLU2&) const {}

 private:
  void positive(std::string_view name, float value, std::string_view remedy) const {
    if (!(value > 0) || !std::isfinite(value)) {
      fail(op_, "{} = {} of {} is not a positive finite float32; {}", name, value, activation_, remedy);
    }
  }
  void approximation(GeluApproximation approximate) const {
    if (approximate != GeluApproximation::none && approximate != GeluApproximation::tanh) {
      fail(op_, "approximate = {} of {} is not a value of GeluApproximation; use none or tanh", static_cast<int>(approximate),
           activation_);
    }
  }

  std::string_view op_;
  std::string_view activation_;
};

void check_operands(const array& gate, const std::optional<array>& up, const Activation& activation) {
  check_compute_float(activate_op, "gate", gate);
  if (is_gated(activation) && !up) {
    fail(activate_op, "up is missing but {} is gated; pass it, or use an activation without a gate such as SiLU",
         name_of(activation));
  }
  if (!is_gated(activation) && up) {
    fail(activate_op,
         "up of shape {} is given but {} is not gated; leave it out, or use an activation with a gate such as SwiGLU",
         to_string(up->shape()), name_of(activation));
  }
  if (up) {
    check_compute_float(activate_op, "up", *up);
    if (up->shape() != gate.shape() || up->dtype() != gate.dtype()) {
      fail(activate_op, "gate is {} {} but up is {} {}; both must have one shape and one type", name_of(gate.dtype()),
           to_string(gate.shape()), name_of(up->dtype()), to_string(up->shape()));
    }
  }
}

}  // namespace

GeluApproximation gelu_approximation_from_name(std::string_view name, std::string_view op) {
  if (name == "none") {
    return GeluApproximation::none;
  }
  if (name == "tanh") {
    return GeluApproximation::tanh;
  }
  fail(op, "approximate = \"{}\" is unknown; use \"none\" or \"tanh\"", name);
}

std::string_view name_of(const Activation& activation) noexcept { return names[activation.index()]; }

bool is_gated(const Activation& activation) noexcept { return activation.index() < 4; }

void check_activation(const Activation& activation, std::string_view op) {
  std::visit(ConstantCheck(activation, op), activation);
}

ResultType infer_activate(const array& gate, const std::optional<array>& up, const Activation& activation,
                          const ActivateOptions& options) {
  check_activation(activation, activate_op);
  check_operands(gate, up, activation);
  check_stream(activate_op, options.stream);
  return {gate.shape(), gate.dtype()};
}

array activate(const array& gate, const std::optional<array>& up, const Activation& activation, const ActivateOptions& options) {
  const threads::NodeBinding binding(options.stream);
  const ResultType type = infer_activate(gate, up, activation, options);
  const NamedOperand operands[] = {{"gate", &gate}, {"up", up ? &*up : nullptr}};
  array result = make_result(activate_op, type.shape, type.dtype, options.out, operands);
  if (result.size() == 0) {
    return result;
  }
  // Operands without gaps are one long row.
  const bool dense = gate.is_row_major() && (!up || up->is_row_major());
  const auto matrices = [&](const array& a) {
    return MatrixBatch(dense ? array::borrow(a.bytes(), {1, a.size()}, a.dtype(), {}, a.owner()) : as_matrices(a));
  };
  cpu::activate({.gate = matrices(gate),
                 .up = up ? matrices(*up) : MatrixBatch(),
                 .activation = activation,
                 .h = result.mutable_bytes(),
                 .threads = options.stream.threads});
  return result;
}

}  // namespace gqmm
