"""MLX on its CPU backend."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .case import CaseSettings
from .peer import Peer, PeerProduct, missing


def mlx_peers(case: CaseSettings) -> Iterator[Peer]:
    """Make the peers of MLX: mx.gather_qmm on MLX's CPU backend, with the same format and routing."""
    if missing("mlx"):
        yield Peer("mlx", "", "", skipped="not installed")
        return
    if case.whole:
        yield Peer("mlx", "", "", skipped="`gqmm bench mlx-lm` measures whole layers through it")
        return
    import mlx.core as mx

    mx.set_default_device(mx.cpu)
    settings = {"group_size": case.group_size, "bits": case.bits, "mode": case.mode}

    def prepare(dtype: Any) -> PeerProduct:
        codes, plain_scales, plain_biases = case.quantized(case.experts, case.N, case.K)
        w, scales, biases = mx.array(codes), mx.array(plain_scales), None
        if plain_biases is not None:
            scales, biases = scales.astype(dtype), mx.array(plain_biases).astype(dtype)
        x = mx.array(case.activations(case.tokens, case.top if case.row_per_pair else 1, 1, case.K)).astype(dtype)
        mx.eval(w, scales, biases, x)

        def run(experts: np.ndarray) -> Any:
            indices = mx.array(experts)
            y = mx.gather_qmm(x[: len(experts)], w, scales, biases, rhs_indices=indices, transpose=case.transpose, **settings)
            mx.eval(y)
            return y

        def factors(experts: np.ndarray, row: int, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            expert, rows_of_x = int(experts.ravel()[row]), x.reshape(-1, case.K)
            if case.mode == "affine":
                wide = [scales[expert].astype(mx.float32), biases[expert].astype(mx.float32)]
            else:
                wide = [scales[expert], None]
            matrix = np.array(mx.dequantize(w[expert], *wide, **settings, dtype=mx.float32))
            matrix = matrix if case.transpose else matrix.T
            return np.array(rows_of_x[row if case.row_per_pair else row // case.top].astype(mx.float32)), matrix[outputs]

        return PeerProduct(run, lambda y: np.array(y.astype(mx.float32)).reshape(-1, case.N), factors)

    for name, dtype in (("float32", mx.float32), ("bfloat16", mx.bfloat16)):
        computes = f"mx.gather_qmm on the CPU, {name}: the same quantized product"
        yield Peer(f"mlx gather_qmm {name}", mx.__version__, computes, lambda dtype=dtype: prepare(dtype),
                   case.weights * (case.bits / 8 + 8 / case.group_size))  # fmt: skip
