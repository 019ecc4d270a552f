// The arguments that operators of whole expert layers have in common, as the package passes them.
#pragma once

#include "arrays.hpp"
#include "weights.hpp"

#include <gqmm/activation.hpp>
#include <gqmm/moe.hpp>

#include <nanobind/nanobind.h>

#include <array>
#include <cstddef>
#include <optional>

namespace gqmm::python {

/// Converts an activation, a tuple of its class's name and its constants.
Activation parse_activation(const char* op, nb::handle passed);
GateUpOrder parse_gate_up_order(const char* op, nb::handle value);

/// The layers and biases of a block, imported. It must be destroyed with the GIL held.
struct BlockOperands {
  LayerOperand gate;
  std::optional<LayerOperand> up;
  LayerOperand down;
  std::optional<Operand> gate_bias;
  std::optional<Operand> up_bias;
  std::optional<Operand> down_bias;

  /// `parts`: gate, up, down, gate_bias, up_bias, down_bias. `names`: what errors call them.
  BlockOperands(const char* op, const std::array<const char*, 6>& names, const std::array<nb::handle, 6>& parts);
  [[nodiscard]] std::optional<ExpertWeights> up_view() const;
};

inline constexpr std::array<const char*, 6> routed_names = {"gate", "up", "down", "gate_bias", "up_bias", "down_bias"};

/// The shared experts as the package passes them: a tuple of gate, up, down, the three biases, the activation as a tuple or None,
/// and the scale.
class SharedOperands {
 public:
  SharedOperands(const char* op, const nb::tuple& parts);
  [[nodiscard]] SharedExperts view() const;

 private:
  BlockOperands block_;
  std::optional<Activation> activation_;
  std::optional<Operand> scale_;
};

}  // namespace gqmm::python
