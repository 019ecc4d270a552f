// Quantized weights as one argument: the arrays of a checkpoint, and the settings that say how to read them.
#pragma once

#include <gqmm/array.hpp>
#include <gqmm/export.hpp>
#include <gqmm/types.hpp>

#include <cstddef>
#include <optional>
#include <string_view>

namespace gqmm {

/// Matrices ŵ that are stored as integer codes. A group of codes shares a scale: ŵ = scale · value(code) + bias.
/// docs/reference/formats.md draws the bits. Every operator that takes weights checks that the arrays and the settings fit each
/// other. Several threads may use one object at the same time as long as none changes it.
struct GQMM_API QuantizedWeights {
  /// The codes: uint32, (…, N, K·bits/32) if transpose is true, else (…, K, N·bits/32). Each row is one little-endian bit stream,
  /// with the first code in the lowest bits.
  array w = {};
  /// The scales. affine: float16, bfloat16 or float32, (…, N, K/group_size) if transpose is true, else (…, K, N/group_size); the
  /// leading dimensions are those of w. Other modes: uint8 (E8M0 for mxfp4 and mxfp8, E4M3 for nvfp4), of the same shape.
  array scales = {};
  /// The biases. affine requires them: types as for scales, and the shape of scales. Other modes have none.
  std::optional<array> biases = {};
  /// The global scale. nvfp4 only: float32, one value for each leading matrix of w (the leading shape of w), or a single value
  /// for all of them.
  std::optional<array> global_scale = {};
  /// How codes and scales encode weights.
  Mode mode = Mode::affine;
  /// The number of bits of a code. Defaults by mode: affine 4, mxfp4 4, mxfp8 8, nvfp4 4.
  std::optional<int> bits = {};
  /// The number of weights that share a scale. Defaults by mode: affine 64, mxfp4 and mxfp8 32, nvfp4 16.
  std::optional<int> group_size = {};
  /// true: the matrices are (…, N, K) and products are y = x @ ŵ.T. false: the matrices are (…, K, N) with groups along N, and
  /// products are y = x @ ŵ.
  bool transpose = true;

  /// The shape of the dequantized weights: (…, N, K) if transpose is true, else (…, K, N). Throws std::invalid_argument if the
  /// arrays and settings do not fit each other. The message starts with "[op] ".
  [[nodiscard]] Shape shape(std::string_view op = "QuantizedWeights") const;
  /// Returns the same weights with every default filled in. Throws std::invalid_argument for settings that do not exist. The
  /// message starts with "[op] ".
  [[nodiscard]] QuantizedWeights resolved(std::string_view op = "QuantizedWeights") const;
  /// The number of bytes of the elements of all arrays.
  [[nodiscard]] std::size_t nbytes() const noexcept;
};

}  // namespace gqmm
