// A weight format as every layer sees it. A weight stands for
//
//     ŵ = scale · value(code) + bias                              (bias = 0 for the floating-point modes)
//
// with one scale (and bias) per group along the packed dimension. Each format is a struct of constants in a header of its own
// beside this one; registry.hpp lists them, and everything else (validation, reference, kernels, tests) enumerates that list.
#pragma once

#include <gqmm/export.hpp>
#include <gqmm/types.hpp>

#include "formats/float_types.hpp"

#include <cstdint>
#include <span>
#include <string>

namespace gqmm {

/// How a scale is stored: any compute float for affine, one byte otherwise.
enum class ScaleEncoding : std::uint8_t { floating, e8m0, e4m3 };

/// The form of a code that integer kernels use: value(code) = unit · (u − offset), where u = table[code], or the code itself
/// without a table, is an unsigned byte.
struct IntegerForm {
  bool exists = true;
  bool has_table = false;
  std::uint8_t table[16] = {};
  int offset = 0;
  float unit = 1.0F;
  int max_u = 0;
};

struct Format {
  Mode mode;
  int bits;
  std::span<const int> group_sizes;
  int default_group_size;
  ScaleEncoding scale_encoding;
  bool has_biases;
  float (*value)(unsigned code);
  IntegerForm integer;
};

/// "affine 4-bit", "mxfp8".
GQMM_API std::string describe(const Format& format);

/// The scale at `address` as float32, exactly. `dtype` matters for ScaleEncoding::floating only.
inline float load_scale(const std::byte* address, ScaleEncoding encoding, Dtype dtype) {
  switch (encoding) {
    case ScaleEncoding::e8m0: return float_from_e8m0(static_cast<std::uint8_t>(*address));
    case ScaleEncoding::e4m3: return float_from_e4m3(static_cast<std::uint8_t>(*address));
    case ScaleEncoding::floating: break;
  }
  return load_float(address, dtype);
}

/// Code number `index` of a row of packed b-bit codes: bits [index·b, index·b + b) of a little-endian bit stream. Reads only
/// bytes of that code.
inline unsigned load_code(const std::byte* row, std::int64_t index, int bits) {
  const std::int64_t first = index * bits;
  const std::byte* address = row + first / 8;
  const int shift = static_cast<int>(first % 8);
  unsigned word = static_cast<unsigned>(address[0]);
  if (shift + bits > 8) {
    word |= static_cast<unsigned>(address[1]) << 8;
  }
  return (word >> shift) & ((1U << bits) - 1U);
}

}  // namespace gqmm
