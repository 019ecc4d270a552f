// Small enumerations shared by the operators.
#pragma once

#include <gqmm/export.hpp>

#include <cstdint>
#include <string_view>

namespace gqmm {

/// The weight formats of MLX. docs/formats.md draws the bits.
enum class Mode : std::uint8_t { affine, mxfp4, mxfp8, nvfp4 };

[[nodiscard]] GQMM_API std::string_view name_of(Mode mode) noexcept;
/// Throws std::invalid_argument, prefixed with "[op] ", for a name that is not a mode.
[[nodiscard]] GQMM_API Mode mode_from_name(std::string_view name, std::string_view op);

/// How finely activations are cut into integers (docs/numerics.md).
enum class Precision : std::uint8_t {
  standard,  ///< "default": 24 bits for float32 results, 16 for float16 and bfloat16
  fast,      ///< "fast": 8 bits, the W4A8 arithmetic of llama.cpp
  float32,   ///< "float32": 24 bits whatever the result type
};

[[nodiscard]] GQMM_API std::string_view name_of(Precision precision) noexcept;
/// Throws std::invalid_argument, prefixed with "[op] ", for a name that is not a precision.
[[nodiscard]] GQMM_API Precision precision_from_name(std::string_view name, std::string_view op);

}  // namespace gqmm
