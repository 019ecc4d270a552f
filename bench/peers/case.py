"""The settings of a case, the routing of its tokens, and random operands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class SwiGLU:
    """The activation (u' + bias) · g' · sigmoid(alpha · g'), where a limit clips g' from above and u' on both sides."""

    alpha: float
    limit: float | None
    bias: float

    @property
    def is_plain(self) -> bool:
        """Whether it is silu(gate) · up."""
        return self == SwiGLU(1, None, 0)

    def __call__(self, gate: np.ndarray, up: np.ndarray) -> np.ndarray:
        if self.limit is not None:
            gate, up = np.minimum(gate, self.limit), np.clip(up, -self.limit, self.limit)
        if self.bias != 0:
            up = up + self.bias
        with np.errstate(over="ignore"):  # sigmoid is 0 then
            return np.asarray(gate * up / (1 + np.exp(gate * -self.alpha)))


class CaseSettings:
    def __init__(self, settings: dict[str, Any]) -> None:
        self.experts: int = settings["experts"]
        self.N: int = settings["n"]
        self.K: int = settings["k"]
        self.top: int = settings["top"]
        self.tokens: int = settings["tokens"]
        self.mode: str = settings["mode"]
        self.bits: int = settings["bits"]
        self.group_size: int = settings["group_size"]
        self.transpose: bool = settings["transpose"]
        self.row_per_pair: bool = settings["row_per_pair"]
        self.routing: str = settings["routing"]
        self.popularity = np.array(settings["popularity"])
        self.threads: int = settings["threads"]
        self.dtype: str = settings["dtype"]
        self.precision: str = settings["precision"]
        self.whole: bool = settings["whole"]
        self.has_biases: bool = settings["has_biases"]
        self.activation = SwiGLU(**settings["activation"])
        self.shared_experts: int = settings["shared_experts"]
        self.pool_bytes: int = settings["pool_bytes"]
        self.weights = (self.experts + self.shared_experts) * self.N * self.K * (3 if self.whole else 1)
        self.random = np.random.default_rng(1)

    def route(self, tokens: int) -> np.ndarray:
        """Draw the experts of every token as the case's routing says. The result is uint32 of shape (tokens, top)."""
        pairs = tokens * self.top
        if self.routing == "one":
            experts = np.full(pairs, self.random.integers(self.experts))
        elif self.routing == "uniform":
            experts = np.concatenate([self.random.permutation(self.experts)[: self.top] for _ in range(tokens)])
        elif self.routing == "half":
            experts = self.route_half(pairs)
        elif self.routing == "learned":
            names = self.random.permutation(self.experts)
            experts = np.concatenate([names[self.prefer()] for _ in range(tokens)])
        else:
            decks = [self.random.permutation(self.experts) for _ in range(-(-pairs // self.experts))]
            experts = np.concatenate(decks)[:pairs]
        return experts.reshape(tokens, self.top).astype(np.uint32)

    def route_half(self, pairs: int) -> np.ndarray:
        """Give every second pair to one expert. The other pairs of a token get different experts of the rest."""
        popular, *others = self.random.permutation(self.experts)
        experts = np.full(pairs, popular)
        for first in range(0, pairs if others else 0, self.top):
            odd = experts[first + 1 - first % 2 : first + self.top : 2]
            odd[:] = self.random.permutation(others)[: len(odd)]
        return experts

    def prefer(self) -> np.ndarray:
        """Draw one token's experts, each with the probability that is its popularity (bench/measure/rotation.hpp)."""
        order = self.random.permutation(self.experts)
        marks = self.random.uniform() + np.arange(self.top)
        chosen = np.searchsorted(np.cumsum(self.popularity[order]), marks, side="right")
        return order[np.minimum(chosen, self.experts - 1)]

    def activations(self, *shape: int) -> np.ndarray:
        return self.random.standard_normal(shape, dtype=np.float32)

    def quantized(self, experts: int, N: int, K: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Draw codes, scales and biases of random weights in the case's format. They lie around zero, as trained weights do.

        Scales of affine formats are float32. Those of other formats are bytes.
        """
        rows, columns = (N, K) if self.transpose else (K, N)
        w = self.random.integers(2**32, size=(experts, rows, columns * self.bits // 32), dtype=np.uint32)
        groups = (experts, rows, columns // self.group_size)
        if self.mode == "affine":
            scales = self.random.uniform(0.01, 0.02, groups).astype(np.float32)
            return w, scales, -scales * np.float32((2**self.bits - 1) / 2)
        if self.bits == 8:  # neither NaN nor subnormal, as in bench/measure/workload.cpp
            w = w & np.uint32(0xB7B7B7B7) | np.uint32(0x40404040)
        first, end = (0x28, 0x38) if self.mode == "nvfp4" else (119, 123)
        return w, self.random.integers(first, end, groups, dtype=np.uint8), None

    def bytes_of(self, weights: float) -> float:
        """Return the number of bytes of so many weights in the case's format, with scales (and biases) of half a float32."""
        return weights * (self.bits / 8 + (4 if self.mode == "affine" else 1) / self.group_size)
