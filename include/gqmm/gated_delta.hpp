// The gated delta rule: linear attention with a decaying state.
#pragma once

#include <gqmm/array.hpp>
#include <gqmm/export.hpp>
#include <gqmm/stream.hpp>

#include <optional>

namespace gqmm {

/// Options of gated_delta_update.
struct GQMM_API GatedDeltaOptions {
  /// The state before the first token: (B, Hv, Dv, Dk), float32, of any strides. None: zeros.
  std::optional<array> state = {};
  /// (B, T), bool: the tokens that count. The others are padding. They change no state, their rows of the result are zero, and
  /// their operands may be anything, also NaN. None: all tokens count.
  std::optional<array> mask = {};
  Stream stream = {};             ///< where the operator runs, and with how many threads
  std::optional<array> out = {};  ///< memory for y, as in GatherQmmOptions
  /// Memory for the new state, likewise. It may be the memory of `state` itself, if that is row-major.
  std::optional<array> state_out = {};
};

/// What gated_delta_update returns.
struct GQMM_API GatedDeltaResult {
  array y;      ///< (B, T, Hv, Dv), of the type of q
  array state;  ///< the state after the last token: (B, Hv, Dv, Dk), float32
};

/// Walks through tokens with the gated delta rule, as gated_delta_update of mlx-lm and mx.fast.gated_delta_update do. For each
/// batch element and head of v, and with S = (Dv, Dk) as its state, a token does
///
///     S ← S · diag(g)                  the state decays
///     δ = beta · (v − S · k)           what the state says of k, against v
///     S ← S + δ · kᵀ
///     y = S · q
///
/// q, k: (B, T, Hk, Dk). v: (B, T, Hv, Dv). A head of q and k serves Hv / Hk consecutive heads of v. g, the factor of decay
/// itself and not its logarithm: (B, T, Hv), or (B, T, Hv, Dk) with a factor for each element of k. beta: (B, T, Hv). All are
/// float16, bfloat16 or float32, each of its own type, of any strides. Nothing scales q and k; models normalize them before.
///
/// All arithmetic is in float32, token by token, and y is rounded once. The results have the same bits whether tokens come at
/// once, in chunks of any size or one by one, in any batch, with any number of threads and on every instruction set.
/// docs/reference/numerics.md states the order of operations and the error bound.
///
/// Throws std::invalid_argument before anything is written. The message names the operation, the values and a remedy.
GQMM_API GatedDeltaResult gated_delta_update(const array& q, const array& k, const array& v, const array& g, const array& beta,
                                             const GatedDeltaOptions& options = {});

}  // namespace gqmm
