#include "moe_operands.hpp"

#include "activation_of.hpp"
#include "arguments.hpp"

#include <string>

namespace gqmm::python {
namespace {

constexpr std::array<const char*, 6> shared_names = {"shared.gate",      "shared.up",      "shared.down",
                                                     "shared.gate_bias", "shared.up_bias", "shared.down_bias"};

/// Reads the constants of an activation.
class PassedConstants {
 public:
  PassedConstants(const char* op, const nb::tuple& parts) : op_(op), parts_(parts) {}

  [[nodiscard]] float number(const char* name, std::size_t i) const { return parse_float({op_, name}, parts_[i]); }
  [[nodiscard]] std::optional<float> optional_number(const char* name, std::size_t i) const {
    return parts_[i].is_none() ? std::nullopt : std::optional(number(name, i));
  }
  [[nodiscard]] GeluApproximation approximation(std::size_t i) const {
    return gelu_approximation_from_name(parse_string({op_, "approximate"}, parts_[i]), op_);
  }

 private:
  const char* op_;
  nb::tuple parts_;
};

}  // namespace

Activation parse_activation(const char* op, nb::handle passed) {
  const auto parts = nb::borrow<nb::tuple>(passed);
  return activation_of(nb::cast<std::string>(parts[0]), PassedConstants(op, parts));
}

GateUpOrder parse_gate_up_order(const char* op, nb::handle value) {
  return gate_up_order_from_name(parse_string({op, "gate_up_order"}, value), op);
}

BlockOperands::BlockOperands(const char* op, const std::array<const char*, 6>& names, const std::array<nb::handle, 6>& parts)
    : gate(import_layer({op, names[0]}, parts[0])),
      down(import_layer({op, names[2]}, parts[2])),
      gate_bias(import_optional_array({op, names[3]}, parts[3])),
      up_bias(import_optional_array({op, names[4]}, parts[4])),
      down_bias(import_optional_array({op, names[5]}, parts[5])) {
  if (!parts[1].is_none()) {
    up = import_layer({op, names[1]}, parts[1]);
  }
}

std::optional<ExpertWeights> BlockOperands::up_view() const {
  return up ? std::optional<ExpertWeights>(view_of(*up)) : std::nullopt;
}

SharedOperands::SharedOperands(const char* op, const nb::tuple& parts)
    : block_(op, shared_names, {parts[0], parts[1], parts[2], parts[3], parts[4], parts[5]}),
      scale_(import_optional_array({op, "shared.scale"}, parts[7])) {
  if (!parts[6].is_none()) {
    activation_ = parse_activation(op, parts[6]);
  }
}

SharedExperts SharedOperands::view() const {
  return {.gate = view_of(block_.gate),
          .up = block_.up_view(),
          .down = view_of(block_.down),
          .gate_bias = view_of(block_.gate_bias),
          .up_bias = view_of(block_.up_bias),
          .down_bias = view_of(block_.down_bias),
          .activation = activation_,
          .scale = view_of(scale_)};
}

}  // namespace gqmm::python
