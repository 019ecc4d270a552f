// The description of a weight format that all layers use. The value of a weight is
//
//     ŵ = scale · value(code) + bias                              (bias = 0 for the floating-point modes)
//
// Each group along the packed dimension has one scale, and a bias in mode affine. Each format is a struct of constants in a
// header beside this one. registry.hpp lists the formats. Everything else (validation, reference, kernels, tests) takes them from
// that list.
#pragma once

#include <gqmm/types.hpp>

#include "formats/float_types.hpp"
#include "formats/small_float.hpp"
#include "internal_api.hpp"

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace gqmm::detail {

/// The type in which a scale is stored. `floating` means float16, bfloat16 or float32, and the other types have one byte.
enum class ScaleEncoding : std::uint8_t { floating, e8m0, e4m3 };

/// The name that ml_dtypes, JAX and PyTorch give a type, for example "float8_e4m3fn". "fn" means that the type has no infinities.
GQMM_INTERNAL_API std::string name_of(const SmallFloat& type);
/// The name of the type of a scale that has one byte. Empty for ScaleEncoding::floating.
GQMM_INTERNAL_API std::string float8_name(ScaleEncoding encoding);

/// How integer kernels see a code: value(code) = unit · (u − offset). The unsigned byte u is table[code], or the code itself if
/// there is no table.
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
  std::string_view mode_name;
  bool is_default;  // true if a caller who does not state the bits gets this format of the mode
  int bits;
  std::span<const int> group_sizes;
  int default_group_size;
  ScaleEncoding scale_encoding;
  bool has_biases;
  bool has_global_scale;
  std::optional<SmallFloat> float_code;  // the type of a code; nullopt means an unsigned integer
  IntegerForm integer;

  [[nodiscard]] float value(unsigned code) const {
    return float_code ? float_from_small(*float_code, code) : static_cast<float>(code);
  }
};

/// The name of a format for messages: "affine 4-bit", "mxfp8".
GQMM_INTERNAL_API std::string describe(const Format& format);

/// Loads the scale at `address` as float32. The conversion is exact. `dtype` is used only for ScaleEncoding::floating.
inline float load_scale(const std::byte* address, ScaleEncoding encoding, Dtype dtype) {
  switch (encoding) {
    case ScaleEncoding::e8m0: return float_from_e8m0(static_cast<std::uint8_t>(*address));
    case ScaleEncoding::e4m3: return float_from_small(e4m3, static_cast<unsigned>(*address));
    case ScaleEncoding::floating: break;
  }
  return load_float(address, dtype);
}

/// Loads code number `index` of a row of packed b-bit codes. The code is bits [index·b, index·b + b) of a little-endian bit
/// stream. Only bytes that hold a part of the code are read.
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

}  // namespace gqmm::detail
