"""PyTorch, whose weights are dense."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .case import CaseSettings
from .peer import Peer, PeerProduct, missing


def torch_peers(case: CaseSettings) -> Iterator[Peer]:
    """Make the peers of PyTorch: dense products of the same size, whose weights are not quantized."""
    if missing("torch"):
        yield Peer("torch", "", "", skipped="not installed")
        return
    import torch
    from torch.nn.functional import linear

    torch.set_num_threads(case.threads)
    torch.set_grad_enabled(False)

    def values(parts: list[Any]) -> np.ndarray:
        return torch.cat(parts).float().numpy()

    def prepare_dense(dtype: Any) -> PeerProduct:
        w = torch.randn(case.N, case.K).to(dtype)
        x = torch.randn(case.tokens * case.top, case.K).to(dtype)
        return PeerProduct(
            lambda experts: [linear(x[: experts.size], w)],
            values,
            lambda experts, row, columns: (x[row].float().numpy(), w[columns].float().numpy()),
        )

    def prepare_int8() -> PeerProduct:
        w = torch.randint(-127, 128, (case.N, case.K), dtype=torch.int8)
        x = torch.randint(-127, 128, (case.tokens * case.top, case.K), dtype=torch.int8)
        return PeerProduct(
            lambda experts: torch._int_mm(x[: experts.size], w.t()),
            lambda y: y.numpy(),
            lambda experts, row, columns: (x[row].numpy(), w[columns].numpy()),
        )

    def prepare_experts(dtype: Any) -> PeerProduct:
        w = torch.empty(case.experts, case.N, case.K, dtype=dtype).uniform_(-1, 1)
        x = torch.randn(case.tokens * case.top, case.K).to(dtype)

        def run(experts: np.ndarray) -> list[Any]:
            first, parts = 0, []
            for expert, rows in zip(*np.unique(experts, return_counts=True), strict=True):
                parts.append(linear(x[first : first + rows], w[int(expert)]))
                first += rows
            return parts

        def factors(experts: np.ndarray, row: int, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            expert = int(np.sort(experts.ravel())[row])
            return x[row].float().numpy(), w[expert, columns].float().numpy()

        return PeerProduct(run, values, factors)

    computes = "one dense int8 matrix times all rows (torch._int_mm, oneDNN): int32 sums alone, no scales, no experts"
    yield Peer("torch dense int8", torch.__version__, computes, prepare_int8)
    for name, dtype in (("bfloat16", torch.bfloat16), ("float32", torch.float32)):
        size = dtype.itemsize
        computes = f"one dense {name} matrix times all rows: as many operations, no experts"
        yield Peer(f"torch dense {name}", torch.__version__, computes, lambda dtype=dtype: prepare_dense(dtype))
        computes = f"a loop over the experts' dense {name} matrices, rows already grouped"
        prepare = lambda dtype=dtype: prepare_experts(dtype)  # noqa: E731
        yield Peer(f"torch experts {name}", torch.__version__, computes, prepare, case.weights * size)
