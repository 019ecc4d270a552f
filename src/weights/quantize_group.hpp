// Quantizes one group of weights to codes and a scale (and a bias), in the arithmetic of mlx.core.quantize. The bits of the
// result depend on which rounding happens in which type. So each function states its roundings.
#pragma once

#include "formats/format.hpp"

#include <gqmm/array.hpp>

#include <cstdint>
#include <span>

namespace gqmm::detail {

inline constexpr int max_group_size = 128;

/// The scale and the bias of an affine group.
struct AffineGroup {
  float scale;
  float bias;
};

/// Quantizes an affine group and writes one code for each weight to `codes`. All arithmetic is in float32. The caller rounds
/// scale and bias to the type of the weights afterwards, so codes refer to the unrounded values. If a weight is NaN or infinite,
/// the scale is NaN and the codes are zero.
AffineGroup quantize_affine_group(std::span<const float> weights, int bits, std::uint8_t* codes);

/// Writes codes of type `code`, and returns the E8M0 byte of 2^⌈log2(max|w| / largest code)⌉. The divisions by the largest code
/// and by the scale are rounded to `dtype`, the type of the weights. Weights must be finite.
std::uint8_t quantize_e8m0_group(std::span<const float> weights, const SmallFloat& code, Dtype dtype, std::uint8_t* codes);

/// Writes codes of type `code`, and returns the E4M3 byte of max|w| / largest code · encode. `encode` is 448 · largest code /
/// global_scale, or 1 without a global scale. Divisions are rounded to `dtype`; products with `encode` are in float32. Weights
/// must be finite.
std::uint8_t quantize_e4m3_group(std::span<const float> weights, const SmallFloat& code, Dtype dtype, float encode,
                                 std::uint8_t* codes);

/// Returns the code for `value`, which is of type `dtype`. E2M1 rounds as e2m1_from_float does, and every other type as
/// small_from_float does.
std::uint8_t code_from_float(const SmallFloat& code, float value, Dtype dtype);

/// Returns the code of the E2M1 value nearest to `value`. Of two equally near values it takes the one nearer to zero, and +0 for
/// both zeros. Distances are rounded to `dtype`. Far beyond 6 they are then all equal, and the result is code 0; it is 0 for
/// infinities and NaN as well.
unsigned e2m1_from_float(float value, Dtype dtype);

/// Returns `value` rounded to `dtype`.
float round_to(Dtype dtype, float value);

}  // namespace gqmm::detail
