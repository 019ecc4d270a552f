// Checks of the arguments that a call gives beside QuantizedWeights or PackedWeights. Such weights hold their own settings, so
// other settings in the call are refused. Both extensions use the same words for that.
#pragma once

#include <gqmm/types.hpp>

#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>

namespace gqmm::python {

/// Settings of weights as a call gives them. A setting that the call leaves out is empty.
struct GivenSettings {
  std::optional<Mode> mode;
  std::optional<int> bits;
  std::optional<int> group_size;
  std::optional<bool> transpose;
};

inline std::string shown(std::string_view setting) { return std::string(setting); }
inline std::string shown(int setting) { return std::to_string(setting); }
inline std::string shown(bool setting) { return setting ? "true" : "false"; }

/// Throws std::invalid_argument for a setting of the call that is another one than that of the weights, which have them all.
/// `origin` and `remedy` go into "{setting} = {} but w {origin} {setting} = {}; {remedy}".
inline void check_settings_beside(std::string_view op, const GivenSettings& given, const GivenSettings& own,
                                  std::string_view origin, std::string_view remedy) {
  const auto check = [&](std::string_view name, const auto& of_call, const auto& of_weights) {
    if (of_call && *of_call != *of_weights) {
      const std::string setting = std::string(name) + " = ";
      throw std::invalid_argument("[" + std::string(op) + "] " + setting + shown(*of_call) + " but w " + std::string(origin) +
                                  " " + setting + shown(*of_weights) + "; " + std::string(remedy));
    }
  };
  const auto name_if_any = [](std::optional<Mode> mode) { return mode ? std::optional(name_of(*mode)) : std::nullopt; };
  check("mode", name_if_any(given.mode), name_if_any(own.mode));
  check("bits", given.bits, own.bits);
  check("group_size", given.group_size, own.group_size);
  check("transpose", given.transpose, own.transpose);
}

/// The same check for weights that are QuantizedWeights.
inline void check_settings_beside_quantized(std::string_view op, const GivenSettings& given, const GivenSettings& own) {
  check_settings_beside(op, given, own, "is QuantizedWeights with", "leave it out or make other weights");
}

/// Throws std::invalid_argument for an array that a call gives beside QuantizedWeights. `weights` describes these.
[[noreturn]] inline void fail_array_beside_quantized(std::string_view op, std::string_view name, const std::string& weights,
                                                     bool weights_hold_it) {
  throw std::invalid_argument(
      "[" + std::string(op) + "] " + std::string(name) + " is given but w = " + weights +
      (weights_hold_it ? " holds its own; leave it out" : " holds none; leave it out or make the weights with it"));
}

}  // namespace gqmm::python
