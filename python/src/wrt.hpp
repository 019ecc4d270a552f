// The gradients that a call asks for by name.
#pragma once

#include "arrays.hpp"

#include <gqmm/gradients.hpp>

#include <fmt/format.h>
#include <nanobind/nanobind.h>

#include <algorithm>
#include <array>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace gqmm::python {

/// Of a product of quantized weights.
inline constexpr std::array<const char*, 3> quantized_gradient_names = {"x", "scales", "biases"};

/// The gradients that a call asks for: names, in the order of the call, each once.
class Wrt {
 public:
  /// Raises TypeError unless wrt is a tuple or a list of strings; std::invalid_argument for an empty one and for other names.
  Wrt(const char* op, nb::handle wrt, std::span<const char* const> known) {
    if (!nb::isinstance<nb::tuple>(wrt) && !nb::isinstance<nb::list>(wrt)) {
      throw nb::type_error(
          fmt::format("[{}] wrt: expected a tuple of names, got {}", op, nb::cast<std::string>(nb::repr(wrt))).c_str());
    }
    const std::string all = fmt::format("{}", fmt::join(known, ", "));
    for (const nb::handle item : wrt) {
      const auto shown = nb::cast<std::string>(nb::repr(item));
      if (!nb::isinstance<nb::str>(item)) {
        throw nb::type_error(fmt::format("[{}] wrt: expected names, got {}", op, shown).c_str());
      }
      const auto name = nb::cast<std::string>(item);
      if (std::ranges::find(known, name) == known.end()) {
        throw std::invalid_argument(
            fmt::format("[{}] wrt has {}, of which there is no gradient; there are those of {}", op, shown, all));
      }
      if (has(name)) {
        throw std::invalid_argument(fmt::format("[{}] wrt has {} twice; name each gradient once", op, shown));
      }
      names_.push_back(name);
    }
    if (names_.empty()) {
      throw std::invalid_argument(fmt::format("[{}] wrt is empty; ask for gradients of {}", op, all));
    }
  }

  [[nodiscard]] bool has(const std::string& name) const { return std::ranges::find(names_, name) != names_.end(); }

  /// {name: gradient}, arrays of the library of `like`; `gradient(name)` is the one of that name.
  template <class Gradient>
  [[nodiscard]] nb::dict to_dict(nb::handle like, Gradient gradient) const {
    nb::dict result;
    for (const std::string& name : names_) {
      result[name.c_str()] = export_array(like, *std::move(gradient(name)));
    }
    return result;
  }

 private:
  std::vector<std::string> names_;
};

inline QuantizedWrt quantized_wrt(const Wrt& wrt) {
  return {.x = wrt.has("x"), .scales = wrt.has("scales"), .biases = wrt.has("biases")};
}

inline nb::dict to_dict(const Wrt& wrt, nb::handle like, QuantizedGradients& gradients) {
  return wrt.to_dict(like, [&](const std::string& name) -> std::optional<array>& {
    return name == "x" ? gradients.x : name == "scales" ? gradients.scales : gradients.biases;
  });
}

}  // namespace gqmm::python
