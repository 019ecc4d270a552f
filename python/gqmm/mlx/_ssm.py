"""The recurrence of state space models of mlx-lm."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gqmm.mlx._load import extension
from gqmm.mlx._replaced_functions import FunctionsReplacedAfterImport

if TYPE_CHECKING:
    import mlx.core as mx


def _ssm_update(  # the names are mlx-lm's
    hidden_states: mx.array,
    A_log: mx.array,
    B: mx.array,
    C: mx.array,
    D: mx.array,
    dt: mx.array,
    dt_bias: mx.array,
    state: mx.array | None = None,
    time_step_limit: tuple[float, float] = (0.001, 100.0),
    mask: mx.array | None = None,
    lengths: mx.array | None = None,
) -> tuple[mx.array, mx.array] | None:
    limit = tuple(time_step_limit)  # a model's configuration may have a list
    results: tuple[mx.array, mx.array] | None = extension.ssm_if_served(
        hidden_states, A_log, B, C, D, dt, dt_bias, state, limit, mask, lengths
    )
    return results


ssm_of_models: FunctionsReplacedAfterImport = extension.__dict__.setdefault(
    "ssm_of_models",  # the one object, because this module may be imported again
    FunctionsReplacedAfterImport({"mlx_lm.models.ssm": {"ssm_update": _ssm_update}}),
)
