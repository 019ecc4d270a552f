"""PyTorch, whose weights are dense."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .case import CaseSettings
from .layer import Matrices, PeerLayer, copies_of_layer
from .peer import Peer, PeerProduct, missing


class TorchLayer(PeerLayer):
    """The loop over the experts that are hit, as transformers has it, with dense weights in the type of x."""

    def __init__(self, case: CaseSettings, copies: int) -> None:
        import torch

        super().__init__(case, copies)
        self.torch, self.dtype = torch, getattr(torch, case.dtype)
        self.rows = torch.from_numpy(self.x).to(self.dtype)
        self.slot_weights = torch.from_numpy(self.router_weights).to(self.dtype)
        self.slot_biases = [torch.from_numpy(bias).to(self.dtype) for bias in self.biases or ()]
        self.experts = [self.projections((case.experts,), case.N) for _ in range(copies)]
        self.shared = [self.projections((), self.inner_shared) for _ in range(copies if case.shared_experts > 0 else 0)]

    def projections(self, experts: tuple[int, ...], inner: int) -> tuple[Any, Any, Any]:
        K = self.case.K
        return self.weights(*experts, inner, K), self.weights(*experts, inner, K), self.weights(*experts, K, inner)

    def weights(self, *shape: int) -> Any:
        """Draw weights of the size that the quantized ones have."""
        return self.torch.empty(shape, dtype=self.dtype).uniform_(-0.12, 0.12)

    def activate(self, gate: Any, up: Any) -> Any:
        from torch.nn.functional import silu

        alpha, limit, bias = self.activation.alpha, self.activation.limit, self.activation.bias
        if self.activation.is_plain:
            return silu(gate) * up
        if limit is not None:
            gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
        return (up + bias) * gate * self.torch.sigmoid(alpha * gate)

    def compute(self, experts: np.ndarray) -> Any:
        from torch.nn.functional import linear

        gate, up, down = self.experts[self.copy]
        x, ids = self.rows[: len(experts)], self.torch.from_numpy(experts.astype(np.int64))
        y = self.torch.zeros_like(x)
        for expert in ids.unique().tolist():
            tokens, slots = self.torch.where(ids == expert)
            gate_bias, up_bias, down_bias = (bias[expert] for bias in self.slot_biases) if self.slot_biases else (None,) * 3
            rows = x[tokens]
            h = self.activate(linear(rows, gate[expert], gate_bias), linear(rows, up[expert], up_bias))
            y.index_add_(0, tokens, linear(h, down[expert], down_bias) * self.slot_weights[tokens, slots, None])
        if self.shared:
            gate, up, down = self.shared[self.copy]
            y += linear(self.activate(linear(x, gate), linear(x, up)), down)
        return y

    def values(self, result: Any) -> np.ndarray:
        values: np.ndarray = result.float().numpy()
        return values

    def matrices(self, expert: int | None) -> Matrices:
        if expert is None:
            gate, up, down = (part.float().numpy() for part in self.shared[self.copy])
        else:
            gate, up, down = (part[expert].float().numpy() for part in self.experts[self.copy])
        return gate, up, down


def torch_layer(case: CaseSettings, version: str) -> Peer:
    layer_bytes = case.weights * np.dtype(np.float32 if case.dtype == "float32" else np.float16).itemsize
    copies = copies_of_layer(case, layer_bytes)
    computes = (
        f"a loop over the experts that are hit, as transformers has it: dense weights in {case.dtype}, not quantized; x, h and "
        "the weighted sum (index_add) in the same type"
    )
    return Peer(f"torch layer {case.dtype}", version, computes, lambda: TorchLayer(case, copies), copies * layer_bytes)


def torch_peers(case: CaseSettings) -> Iterator[Peer]:
    """Make the peers of PyTorch, whose weights are not quantized: dense products of the same size, or a whole layer."""
    if missing("torch"):
        yield Peer("torch", "", "", skipped="not installed")
        return
    import torch
    from torch.nn.functional import linear

    torch.set_num_threads(case.threads)
    torch.set_grad_enabled(False)
    if case.whole:
        yield torch_layer(case, torch.__version__)
        return

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
