"""gqmm itself, as users without moe_ffn call it: three products of experts with NumPy between them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .case import CaseSettings
from .layer import Matrices, PeerLayer, copies_of_layer
from .peer import Peer, missing


def numpy_type(name: str) -> np.dtype[Any]:
    """Return the type of this name. bfloat16 is a type of ml_dtypes, which gqmm needs, too."""
    if name != "bfloat16":
        return np.dtype(name)
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)


class GqmmLayer(PeerLayer):
    """Three calls of gather_qmm, and of quantized_matmul for shared experts. What is between them is NumPy's, in float32."""

    def __init__(self, case: CaseSettings, copies: int) -> None:
        import gqmm

        super().__init__(case, copies)
        self.gqmm, self.dtype = gqmm, numpy_type(case.dtype)
        self.rows = self.x.astype(self.dtype)
        self.options = {"precision": case.precision, "stream": gqmm.Stream(case.threads)}
        self.experts = [self.projections(case.experts, case.N) for _ in range(copies)]
        self.shared = [self.projections(1, self.inner_shared) for _ in range(copies if case.shared_experts > 0 else 0)]

    def projections(self, experts: int, inner: int) -> tuple[Any, Any, Any]:
        K = self.case.K
        return self.weights(experts, inner, K), self.weights(experts, inner, K), self.weights(experts, K, inner)

    def weights(self, experts: int, N: int, K: int) -> Any:
        case = self.case
        w, scales, biases = case.quantized(experts, N, K)
        if biases is not None:
            scale_type = numpy_type("bfloat16") if case.dtype == "float32" else self.dtype  # as checkpoints have them
            scales, biases = scales.astype(scale_type), biases.astype(scale_type)
        return self.gqmm.QuantizedWeights(
            w, scales, biases, mode=case.mode, bits=case.bits, group_size=case.group_size, transpose=case.transpose
        )

    def compute(self, experts: np.ndarray) -> np.ndarray:
        gate, up, down = self.experts[self.copy]
        x, bias = self.rows[: len(experts)], self.biases

        def product(rows: np.ndarray, weights: Any, bias: np.ndarray | None) -> np.ndarray:
            y = self.gqmm.gather_qmm(rows, weights, rhs_indices=experts, **self.options).astype(np.float32, copy=False)
            return y if bias is None else y + bias[experts][:, :, None]

        rows = x[:, None, None]
        h = self.activation(product(rows, gate, bias and bias[0]), product(rows, up, bias and bias[1])).astype(self.dtype)
        slots = product(h, down, bias and bias[2])[:, :, 0]
        y = np.einsum("tj,tjk->tk", self.router_weights[: len(experts)], slots)
        return (y + self.compute_shared(x) if self.shared else y).astype(self.dtype)

    def compute_shared(self, x: np.ndarray) -> np.ndarray:
        gate, up, down = self.shared[self.copy]

        def product(rows: np.ndarray, weights: Any) -> np.ndarray:
            return self.gqmm.quantized_matmul(rows, weights, **self.options)[0].astype(np.float32, copy=False)

        h = self.activation(product(x[None], gate), product(x[None], up)).astype(self.dtype)
        return product(h[None], down)

    def values(self, result: np.ndarray) -> np.ndarray:
        return result

    def matrices(self, expert: int | None) -> Matrices:
        projections = self.shared[self.copy] if expert is None else self.experts[self.copy]

        def matrix(weights: Any) -> np.ndarray:
            biases = None if weights.biases is None else weights.biases[expert or 0].astype(np.float32)
            scales = weights.scales[expert or 0]
            plain: np.ndarray = self.gqmm.dequantize(
                weights.w[expert or 0], scales if biases is None else scales.astype(np.float32), biases,
                mode=self.case.mode, bits=self.case.bits, group_size=self.case.group_size, dtype=np.float32,
            )  # fmt: skip
            return plain if self.case.transpose else plain.T

        gate, up, down = projections
        return matrix(gate), matrix(up), matrix(down)


def gqmm_peers(case: CaseSettings) -> Iterator[Peer]:
    """Make the peer of gqmm: a whole layer by its parts. A product has none, because it is what is measured."""
    if not case.whole:
        return
    if missing("gqmm"):
        yield Peer("gqmm", "", "", skipped="not installed")
        return
    import gqmm

    layer_bytes = case.bytes_of(case.weights)
    copies = copies_of_layer(case, layer_bytes)
    arithmetic = case.dtype if case.precision == "default" else f"{case.dtype} {case.precision}"
    computes = (
        f"three gather_qmm calls from Python and NumPy between them: the same quantized weights in place; x, h and slots in "
        f"{case.dtype}, products in {case.precision} precision, activation and weighted sum in float32"
    )
    if case.shared_experts > 0:
        computes += "; three quantized_matmul calls for the shared experts"
    name = f"gqmm three gather_qmm {arithmetic}"
    yield Peer(name, gqmm.__version__, computes, lambda: GqmmLayer(case, copies), copies * layer_bytes)
