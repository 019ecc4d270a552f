// Activations of feed-forward blocks, and the operator that computes one. An activation is a small struct with its constants;
// nothing is built in. docs/reference/numerics.md states the order of operations and the error bounds.
#pragma once

#include <gqmm/array.hpp>
#include <gqmm/export.hpp>
#include <gqmm/stream.hpp>

#include <cstdint>
#include <optional>
#include <string_view>
#include <variant>

namespace gqmm {

/// Which formula of GELU is meant.
enum class GeluApproximation : std::uint8_t {
  none,  ///< "none": x · ½ (1 + erf(x / √2))
  tanh,  ///< "tanh": x · ½ (1 + tanh(√(2/π) · (x + 0.044715 · x³)))
};

/// The formula with this name. Throws std::invalid_argument if there is none; the message starts with "[op] ".
[[nodiscard]] GQMM_API GeluApproximation gelu_approximation_from_name(std::string_view name, std::string_view op);

/// Gated: (u' + bias) · g' · sigmoid(alpha · g'), where g' = min(gate, limit) and u' = up clipped to −limit … limit. The defaults
/// give silu(gate) · up. gpt-oss has alpha = 1.702, limit = 7, bias = 1.
struct GQMM_API SwiGLU {
  float alpha = 1;                  ///< positive and finite
  std::optional<float> limit = {};  ///< positive and finite; without it nothing is clipped
  float bias = 0;                   ///< finite
  /// Whether the constants are equal.
  friend bool operator==(const SwiGLU&, const SwiGLU&) = default;
};

/// Gated: gelu(gate) · up.
struct GQMM_API GeGLU {
  GeluApproximation approximate = GeluApproximation::none;  ///< the formula of GELU
  /// Whether the constants are equal.
  friend bool operator==(const GeGLU&, const GeGLU&) = default;
};

/// Gated: beta · tanh(gate / beta) · sigmoid(gate) · u', where u' = linear_beta · tanh(up / linear_beta), or up without
/// linear_beta.
struct GQMM_API SiTU {
  float beta = 0;                         ///< positive and finite; it must be given
  std::optional<float> linear_beta = {};  ///< positive and finite
  /// Whether the constants are equal.
  friend bool operator==(const SiTU&, const SiTU&) = default;
};

/// Gated: min(silu(gate), limit) · u', where u' = up clipped to −limit … limit.
struct GQMM_API SwiGLUStep {
  float limit = 0;  ///< positive and finite; it must be given
  /// Whether the constants are equal.
  friend bool operator==(const SwiGLUStep&, const SwiGLUStep&) = default;
};

/// Not gated: gate · sigmoid(gate).
struct GQMM_API SiLU {
  /// They are always equal.
  friend bool operator==(const SiLU&, const SiLU&) = default;
};

/// Not gated: gelu(gate).
struct GQMM_API GELU {
  GeluApproximation approximate = GeluApproximation::none;  ///< the formula of GELU
  /// Whether the constants are equal.
  friend bool operator==(const GELU&, const GELU&) = default;
};

/// Not gated: max(gate, 0)².
struct GQMM_API ReLU2 {
  /// They are always equal.
  friend bool operator==(const ReLU2&, const ReLU2&) = default;
};

/// Any activation.
using Activation = std::variant<SwiGLU, GeGLU, SiTU, SwiGLUStep, SiLU, GELU, ReLU2>;

/// The name of the activation's class: "SwiGLU".
[[nodiscard]] GQMM_API std::string_view name_of(const Activation& activation) noexcept;
/// Whether the activation multiplies by `up`.
[[nodiscard]] GQMM_API bool is_gated(const Activation& activation) noexcept;
/// Throws std::invalid_argument for a constant out of its range; the message starts with "[op] ". Operators call it themselves.
GQMM_API void check_activation(const Activation& activation, std::string_view op);

/// Options of activate.
struct GQMM_API ActivateOptions {
  Stream stream = {};             ///< where the operator runs, and with how many threads
  std::optional<array> out = {};  ///< memory for the result, as in GatherQmmOptions
};

/// Computes activation(gate, up) for each element. gate: float16, bfloat16 or float32, of any shape and strides. up: of the same
/// shape and type; nothing broadcasts. Gated activations need it, others take std::nullopt.
///
/// Result: the shape and type of gate. It is computed in float32 and rounded once. NaN passes through every clip.
///
/// Throws std::invalid_argument before anything is computed. The message names the operation, the values and a remedy.
GQMM_API array activate(const array& gate, const std::optional<array>& up, const Activation& activation,
                        const ActivateOptions& options = {});

}  // namespace gqmm
