#include "activation_arguments.hpp"

#include "activations.hpp"
#include "functions.hpp"
#include "weight_arguments.hpp"

#include "../src/activation_of.hpp"

#include <mlx/utils.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/variant.h>

#include <cstddef>
#include <optional>
#include <string>

namespace gqmm::mlx {
namespace {

using namespace nb::literals;

constexpr const char* activate_op = "activate";

/// The constants of an activation, which its class has checked.
struct PassedConstants {
  nb::tuple parts;
  const char* op;

  [[nodiscard]] float number(const char*, std::size_t i) const { return static_cast<float>(nb::cast<double>(parts[i])); }
  [[nodiscard]] std::optional<float> optional_number(const char* name, std::size_t i) const {
    return parts[i].is_none() ? std::nullopt : std::optional(number(name, i));
  }
  [[nodiscard]] GeluApproximation approximation(std::size_t i) const {
    return gelu_approximation_from_name(nb::cast<std::string>(parts[i]), op);
  }
};

mx::array call_activate(const mx::array& gate, const OptionalArray& up, nb::handle activation, const mx::StreamOrDevice& stream) {
  return activate(gate, up, activation_in(activation, activate_op), stream);
}

nb::object activate_if_served(nb::handle gate, nb::handle up, nb::handle activation) {
  const mx::array* const gate_array = array_in(gate);
  const mx::array* const up_array = up.is_none() ? nullptr : array_in(up);
  const OptionalArray given = up_array != nullptr ? OptionalArray(*up_array) : std::nullopt;
  if (activation.is_none() || gate_array == nullptr || (up_array == nullptr && !up.is_none()) ||
      !serves_activation(*gate_array, given, {})) {
    ++counts().activations.stock;
    return nb::none();
  }
  return nb::cast(activate(*gate_array, given, activation_in(activation, activate_op), {}));
}

}  // namespace

Activation activation_in(nb::handle passed, const char* op) {
  const nb::tuple parts = nb::borrow<nb::tuple>(passed);
  return python::activation_of(nb::cast<std::string>(parts[0]), PassedConstants{parts, op});
}

void bind_activations(nb::module_& m) {
  m.def("activate", &call_activate, "gate"_a, "up"_a.none(), "activation"_a, "stream"_a.none(),
        "The activation of gqmm.mlx.activate, with the activation as a tuple.");
  m.def(
      "activate_if_served", &activate_if_served, "gate"_a, "up"_a.none(), "activation"_a.none(),
      nb::sig("def activate_if_served(gate: object, up: object, activation: tuple[object, ...] | None) -> mlx.core.array | None"),
      "The same on the default device. Returns None, and counts a call of MLX's, if gqmm does not compute it. An activation that "
      "gqmm does not have is None.");
}

}  // namespace gqmm::mlx
