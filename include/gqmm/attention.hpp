// Attention.
#pragma once

#include <gqmm/array.hpp>
#include <gqmm/export.hpp>
#include <gqmm/quantized_weights.hpp>
#include <gqmm/stream.hpp>

#include <optional>
#include <variant>

namespace gqmm {

/// Query t of T sees the keys 0 … L − T + t of L. So the last query sees all keys.
struct GQMM_API CausalMask {
  /// Always true.
  friend bool operator==(const CausalMask&, const CausalMask&) = default;
};

/// Which keys a query sees: all of them, those before its own position, or what an array says. The array broadcasts to
/// (B, Hq, T, L). If it is bool, true means that the query sees the key. If it is float16, bfloat16 or float32, it is added to
/// the scores, and the query does not see keys with −Inf.
using AttentionMask = std::variant<std::monostate, CausalMask, array>;

/// Options of scaled_dot_product_attention.
struct GQMM_API AttentionOptions {
  AttentionMask mask = {};  ///< which keys a query sees; all of them if it is not given
  /// (Hq,), float16, bfloat16 or float32: for each head of q, the score of one more key, whose value is zero.
  std::optional<array> sinks = {};
  /// (B,), any integer type: for each batch element, the index along L of the key at position 0. It may be negative, or L and
  /// more. Sums run over blocks of keys that are aligned to positions. So with its origin, a sequence has the same bits behind
  /// padding, or after its first keys have been dropped, as alone. Without it, all origins are 0.
  std::optional<array> origin = {};
  Stream stream = {};             ///< where the operator runs, and with how many threads
  std::optional<array> out = {};  ///< memory for the result, as in GatherQmmOptions
};

/// Computes attention for each head, as mx.fast.scaled_dot_product_attention does:
///
///     y = softmax(scale · q @ kᵀ + mask) @ v
///
/// q: (B, Hq, T, D). k: (B, Hkv, L, D). v: (B, Hkv, L, Dv). Each is float16, bfloat16 or float32, and strides are free. Hq must
/// be a multiple of Hkv; a head of k and v serves Hq / Hkv consecutive heads of q.
///
/// Result: (B, Hq, T, Dv) of the type of q, k and v, or float32 if these differ. All arithmetic is in float32, and the result is
/// rounded once. No matrix of scores is kept. A query that sees no key has the mean of v if the mask is causal or bool, and NaN
/// if −Inf hides all keys, as MLX has it. With a sink, it has 0. Keys and values that no query sees are not read as numbers: they
/// may hold Inf and NaN.
///
/// A row of the result has the same bits in any batch, with any number of queries computed together, with any number of threads
/// and on every instruction set. docs/reference/numerics.md states the order of operations and the error bound.
///
/// Throws std::invalid_argument before anything is written. The message names the operation, the values and a remedy.
GQMM_API array scaled_dot_product_attention(const array& q, const array& k, const array& v, float scale,
                                            const AttentionOptions& options = {});

/// Options of quantized_scaled_dot_product_attention. The members mean what those of AttentionOptions mean.
struct GQMM_API QuantizedAttentionOptions {
  AttentionMask mask = {};           ///< which keys a query sees; all of them if it is not given
  std::optional<array> origin = {};  ///< the index along L of the key at position 0, for each batch element
  Stream stream = {};                ///< where the operator runs, and with how many threads
  std::optional<array> out = {};     ///< memory for the result, as in GatherQmmOptions
};

/// Computes attention over keys and values that are quantized, as a cache holds them.
///
/// q: (B, Hq, T, D), as in scaled_dot_product_attention. q_keys: affine codes of (B, Hkv, L, D) in groups along D, as quantize
/// makes them: w is (B, Hkv, L, D·bits/32). q_values: the same of (B, Hkv, L, Dv). Both may have settings of their own, and any
/// strides. Blocks of 128 keys are dequantized when they are needed; no copy of all keys is made.
///
/// Result: (B, Hq, T, Dv) of the type to which q, scales and biases promote. A key is float32 scale · code + bias, where the
/// product and the sum are rounded. The result has the bits of this computation: convert scales and biases to float32,
/// dequantize, call scaled_dot_product_attention, and round to the result's type. Masks and queries that see no key are as there.
/// The bits of a row are independent of the same things.
///
/// Throws std::invalid_argument before anything is written. The message names the operation, the values and a remedy.
GQMM_API array quantized_scaled_dot_product_attention(const array& q, const QuantizedWeights& q_keys,
                                                      const QuantizedWeights& q_values, float scale,
                                                      const QuantizedAttentionOptions& options = {});

}  // namespace gqmm
