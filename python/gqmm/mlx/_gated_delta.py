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


# mlx-lm's gated_delta_update computes the gates, and calls this function on the CPU. The extension's has the same arguments.
gated_delta_of_models: FunctionsReplacedAfterImport = extension.__dict__.setdefault(
    "gated_delta_of_models",  # the one object, because this module may be imported again
    FunctionsReplacedAfterImport({"mlx_lm.models.gated_delta": {"gated_delta_ops": extension.gated_delta_if_served}}),
)
