// The recurrence of state space models (Mamba-2): linear attention whose state decays by learned time steps.
#pragma once

#include <gqmm/array.hpp>
#include <gqmm/export.hpp>
#include <gqmm/stream.hpp>

#include <optional>

namespace gqmm {

/// What ssm_update clips time steps to. No NaN; `largest` must not be below `smallest` or 0.
struct GQMM_API TimeStepLimit {
  float smallest = 0.001F;  ///< the lower end
  float largest = 100.0F;   ///< the upper end; it may be infinite
};

/// Options of ssm_update.
struct GQMM_API SsmOptions {
  /// The state before the first token: (B, H, Dh, N), float32, of any strides. None: zeros.
  std::optional<array> state = {};
  TimeStepLimit time_step_limit = {};  ///< what time steps are clipped to
  /// (B, T), bool: the tokens that count. The others are padding. They change no state, their rows of the result are zero, and
  /// their operands may be anything, also NaN. None: all tokens count.
  std::optional<array> mask = {};
  /// (B), of any integer type: the number of tokens of each sequence. Those behind are padding as well. None: all T.
  std::optional<array> lengths = {};
  Stream stream = {};             ///< where the operator runs, and with how many threads
  std::optional<array> out = {};  ///< memory for y, as in GatherQmmOptions
  /// Memory for the new state, likewise. It may be the memory of `state` itself, if that is row-major.
  std::optional<array> state_out = {};
};

/// What ssm_update returns.
struct GQMM_API SsmResult {
  array y;      ///< (B, T, H, Dh), of the type of hidden_states, or float32 if D has another type
  array state;  ///< the state after the last token: (B, H, Dh, N), float32
};

/// Walks through tokens with the recurrence of a state space model, as ssm_update of mlx-lm does. For each batch element and
/// head, and with S = (Dh, N) as its state, a token does
///
///     Δ = clip(softplus(dt + dt_bias), time_step_limit)
///     S ← S · exp(−exp(A_log) · Δ) + (Δ · x) · Bᵀ
///     y = S · C + D · x
///
/// hidden_states, which is x: (B, T, H, Dh). B, C: (B, T, G, N). A group of B and C serves H / G consecutive heads. dt: (B, T,
/// H). A_log, D, dt_bias: (H). All are float16, bfloat16 or float32, each of its own type, of any strides.
///
/// All arithmetic is in float32, token by token, and y is rounded once. The results have the same bits whether tokens come at
/// once, in chunks of any size or one by one, in any batch, with any number of threads and on every instruction set.
/// docs/reference/numerics.md states the order of operations and the error bound.
///
/// Throws std::invalid_argument before anything is written. The message names the operation, the values and a remedy.
GQMM_API SsmResult ssm_update(const array& hidden_states, const array& A_log, const array& B, const array& C, const array& D,
                              const array& dt, const array& dt_bias, const SsmOptions& options = {});

}  // namespace gqmm
