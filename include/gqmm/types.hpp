// Small enumerations that several operators use.
#pragma once

#include <gqmm/export.hpp>

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace gqmm {

/// The weight formats of MLX. docs/reference/formats.md draws the bits.
enum class Mode : std::uint8_t { affine, mxfp4, mxfp8, nvfp4 };

/// Every mode, in the order of the enumeration.
[[nodiscard]] GQMM_API std::span<const Mode> modes() noexcept;
[[nodiscard]] GQMM_API std::string_view name_of(Mode mode) noexcept;
/// The mode with this name, or nullopt if there is none.
[[nodiscard]] GQMM_API std::optional<Mode> find_mode(std::string_view name) noexcept;
/// The mode with this name. Throws std::invalid_argument if there is none; the message starts with "[op] ".
[[nodiscard]] GQMM_API Mode mode_from_name(std::string_view name, std::string_view op);

/// The precision to which activations are cut into integers (docs/reference/numerics.md).
enum class Precision : std::uint8_t {
  standard,  ///< "default": 24 bits for float32 results, 16 for float16 and bfloat16
  fast,      ///< "fast": 8 bits, the W4A8 arithmetic of llama.cpp
  float32,   ///< "float32": 24 bits whatever the result type
};

[[nodiscard]] GQMM_API std::string_view name_of(Precision precision) noexcept;
/// The precision with this name. Throws std::invalid_argument if there is none; the message starts with "[op] ".
[[nodiscard]] GQMM_API Precision precision_from_name(std::string_view name, std::string_view op);

/// What an operator does with a row that has no expert.
enum class Missing : std::uint8_t {
  error,  ///< "error": it throws std::invalid_argument
  zero,   ///< "zero": the row's result is zero, and the row is not read
};

[[nodiscard]] GQMM_API std::string_view name_of(Missing missing) noexcept;
/// The value with this name. Throws std::invalid_argument if there is none; the message calls the argument `argument` and starts
/// with "[op] ".
[[nodiscard]] GQMM_API Missing missing_from_name(std::string_view name, std::string_view op,
                                                 std::string_view argument = "missing");

}  // namespace gqmm
