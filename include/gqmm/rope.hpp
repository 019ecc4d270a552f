// Rotary position embeddings.
#pragma once

#include <gqmm/array.hpp>
#include <gqmm/export.hpp>
#include <gqmm/stream.hpp>

#include <cstdint>
#include <optional>
#include <variant>

namespace gqmm {

/// Options of rope.
struct GQMM_API RopeOptions {
  /// Whether neighbours make a pair, (0, 1), (2, 3), …, or else elements that are dims / 2 apart.
  bool traditional = false;
  std::optional<float> base = {};  ///< pair i turns by base^(−2i / dims) for each position; positive; or else `freqs`
  float scale = 1;                 ///< the factor of positions
  /// The position of the first row: one for all, or an integer array with one element, or with one for each batch element.
  std::variant<std::int64_t, array> offset = std::int64_t{0};
  std::optional<array> freqs = {};  ///< (dims / 2,), float16, bfloat16 or float32: pair i turns by 1 / freqs[i]
  Stream stream = {};               ///< where the operator runs, and with how many threads
  std::optional<array> out = {};    ///< memory for the result, as in GatherQmmOptions
};

/// Rotates pairs of elements by angles that grow with the position, as mx.fast.rope does. For row t of T, with the pair (a, b)
/// and the angle θ = (offset + t) · scale · frequency: (a · cos θ − b · sin θ, b · cos θ + a · sin θ).
///
/// x: (B, …, T, D), float16, bfloat16 or float32, with at least three dimensions and any strides. dims: even, 2 … D; further
/// elements of a row stay as they are. Either base or freqs must be given. Angles must lie within ±2^40.
///
/// Result: the shape and type of x. Angles are computed in float64, their cosines and sines are rounded to float32, and the
/// result is rounded once. A row has the same bits in any batch, with any number of threads and on every instruction set.
/// docs/reference/numerics.md states the order of operations and the error bound.
///
/// Throws std::invalid_argument before anything is written. The message names the operation, the values and a remedy.
GQMM_API array rope(const array& x, int dims, const RopeOptions& options);

}  // namespace gqmm
