// One group of weights to codes and a scale (and bias), in the arithmetic of mlx.core.quantize: which roundings happen in which
// type decides the bits, so each function states it.
#pragma once

#include "formats/format.hpp"

#include <gqmm/array.hpp>

#include <cstdint>
#include <span>

namespace gqmm {

inline constexpr int max_group_size = 128;

/// Scale and bias of a group, and one code per weight in `codes`.
struct AffineGroup {
  float scale;
  float bias;
};

/// All in float32; the caller rounds scale and bias to the type of the weights afterwards, so codes refer to the unrounded ones.
/// A NaN or infinity among the weights gives a NaN scale and codes of zero.
AffineGroup quantize_affine_group(std::span<const float> weights, int bits, std::uint8_t* codes);

/// Codes of mxfp4 or mxfp8 and the E8M0 byte of 2^⌈log2(max|w| / largest code)⌉. Both divisions, by the largest code and by the
/// scale, are rounded to `dtype`, the type of the weights, which must be finite.
std::uint8_t quantize_e8m0_group(std::span<const float> weights, const Format& format, Dtype dtype, std::uint8_t* codes);

/// Codes of nvfp4 and the E4M3 byte of max|w| / 6 · encode, `encode` = 448 · 6 / global_scale, or 1 without one. Divisions are
/// rounded to `dtype`, products with `encode` are in float32. Weights must be finite.
std::uint8_t quantize_e4m3_group(std::span<const float> weights, Dtype dtype, float encode, std::uint8_t* codes);

/// Rounds to E4M3, ties to even; beyond 448, and for NaN, the largest magnitude of the same sign.
std::uint8_t e4m3_from_float(float value);

/// The code of the E2M1 value nearest to `value`; of two equally near the one nearer to zero, and +0 for both zeros. Distances
/// are rounded to `dtype`, so far beyond 6 they no longer tell values apart, and code 0 results, as it does for infinities and
/// NaN.
unsigned e2m1_from_float(float value, Dtype dtype);

/// `value` rounded to `dtype`.
float round_to(Dtype dtype, float value);

}  // namespace gqmm
