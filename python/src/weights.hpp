// Imports the weights that operators take: an array w with its scales, gqmm.QuantizedWeights or gqmm.PackedWeights.
#pragma once

#include "arrays.hpp"

#include <gqmm/moe.hpp>
#include <gqmm/packed_weights.hpp>
#include <gqmm/quantized_weights.hpp>

#include <variant>
#include <vector>

namespace gqmm::python {

/// The arguments of an operator that describe its weights, as Python gave them. An argument that was left out is None.
struct WeightArguments {
  nb::handle w;
  nb::handle scales;
  nb::handle biases;
  nb::handle global_scale = Py_None;
  nb::handle group_size;
  nb::handle bits;
  nb::handle mode;
  nb::handle transpose = Py_None;
};

/// Weights whose arrays view Python's memory. `keep` owns the objects that keep the memory in place. It must be destroyed with
/// the GIL held.
struct WeightOperands {
  QuantizedWeights weights;
  std::vector<nb::object> keep;
  nb::object w;  ///< the array of codes; a result of dequantize() belongs to its library
};

/// Imports weights that are not packed. Raises TypeError for arguments of a wrong kind. If w is gqmm.QuantizedWeights, throws
/// std::invalid_argument for arguments that contradict it. The operator judges whether the arrays fit each other.
WeightOperands import_quantized_weights(const char* op, const WeightArguments& arguments);

/// Imports weights of any kind. Packed weights get the global scale that the call gives them.
std::variant<WeightOperands, PackedWeights> import_weights(const char* op, const WeightArguments& arguments);

/// Weights as one object. Raises TypeError unless it is gqmm.QuantizedWeights or gqmm.PackedWeights.
std::variant<WeightOperands, PackedWeights> import_weights_object(const char* op, nb::handle weights);

/// One layer of experts: weights as one object, or a dense array. It must be destroyed with the GIL held.
using LayerOperand = std::variant<WeightOperands, PackedWeights, Operand>;
/// Imports a layer. Raises TypeError for an object that is neither weights nor an array.
LayerOperand import_layer(ArgumentName name, nb::handle layer);
/// What a C++ operator takes for the layer.
ExpertWeights view_of(const LayerOperand& layer);

/// Calls function(weights) with what a C++ operator takes: QuantizedWeights or PackedWeights.
template <class Function>
auto with_weights(const std::variant<WeightOperands, PackedWeights>& weights, const Function& function) {
  if (const auto* operands = std::get_if<WeightOperands>(&weights)) {
    return function(operands->weights);
  }
  return function(std::get<PackedWeights>(weights));
}

/// The class gqmm.QuantizedWeights.
void bind_quantized_weights(nb::module_& module);

}  // namespace gqmm::python
