"""The gated delta rule of MLX and of mlx-lm's models."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from gqmm.mlx._load import extension
from gqmm.mlx._replaced_functions import FunctionsReplacedAfterImport


def gated_delta_update(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    gamma: mx.array,
    beta: mx.array,
    initial_state: mx.array | None = None,
    mask: mx.array | None = None,
    stream: Any = None,
) -> list[mx.array]:
    """Compute as mx.fast.gated_delta_update does."""
    results = extension.gated_delta_if_served(q, k, v, gamma, beta, initial_state, mask, stream)
    if results is None:
        stock: list[mx.array] = extension.stock_functions["gated_delta_update"](q, k, v, gamma, beta, initial_state, mask, stream)
        return stock
    return list(results)


def _gated_delta_ops(  # the names are mlx-lm's
    q: mx.array,
    k: mx.array,
    v: mx.array,
    g: mx.array,
    beta: mx.array,
    state: mx.array | None = None,
    mask: mx.array | None = None,
) -> tuple[mx.array, mx.array] | None:
    results: tuple[mx.array, mx.array] | None = extension.gated_delta_if_served(q, k, v, g, beta, state, mask)
    return results


# mlx-lm's gated_delta_update computes the gates, and calls this function on the CPU.
gated_delta_of_models: FunctionsReplacedAfterImport = extension.__dict__.setdefault(
    "gated_delta_of_models",  # the one object, because this module may be imported again
    FunctionsReplacedAfterImport({"mlx_lm.models.gated_delta": {"gated_delta_ops": _gated_delta_ops}}),
)
