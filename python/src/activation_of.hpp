// Activations as the package passes them to its extensions: a tuple of the class's name and the constants in their order.
#pragma once

#include <gqmm/activation.hpp>

#include <cstddef>
#include <string_view>

namespace gqmm::python {

/// Makes the activation of the class with this name. `constants` reads what the tuple holds: number(name, i),
/// optional_number(name, i) and approximation(i), where i counts the elements of the tuple.
template <class Constants>
Activation activation_of(std::string_view name, const Constants& constants) {
  if (name == "SwiGLU") {
    return SwiGLU{.alpha = constants.number("alpha", 1),
                  .limit = constants.optional_number("limit", 2),
                  .bias = constants.number("bias", 3)};
  }
  if (name == "GeGLU") {
    return GeGLU{.approximate = constants.approximation(1)};
  }
  if (name == "SiTU") {
    return SiTU{.beta = constants.number("beta", 1), .linear_beta = constants.optional_number("linear_beta", 2)};
  }
  if (name == "SwiGLUStep") {
    return SwiGLUStep{.limit = constants.number("limit", 1)};
  }
  if (name == "SiLU") {
    return SiLU{};
  }
  if (name == "GELU") {
    return GELU{.approximate = constants.approximation(1)};
  }
  return ReLU2{};
}

}  // namespace gqmm::python
