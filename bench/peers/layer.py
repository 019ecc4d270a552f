"""Whole layers: what their peers have in common, and what they compute, in float64."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from .case import CaseSettings

Matrices = tuple[np.ndarray, np.ndarray, np.ndarray]


def short_mantissas(values: np.ndarray) -> np.ndarray:
    """Cut float32 values to the 8 bits of bfloat16, so that every type of activations holds the same ones."""
    return (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def copies_of_layer(case: CaseSettings, layer_bytes: float) -> int:
    """Return how many copies of a layer of so many bytes fill the pool, as gqmm's own copies do."""
    return max(1, math.ceil(case.pool_bytes / layer_bytes))


class PeerLayer(ABC):
    """A whole layer, as a peer computes it. Its calls take the copies of the weights in turn, so weights come from memory."""

    def __init__(self, case: CaseSettings, copies: int) -> None:
        self.case, self.copies, self.copy = case, copies, 0
        self.activation = case.activation
        self.x = short_mantissas(case.activations(case.tokens, case.K))
        self.router_weights = short_mantissas(case.activations(case.tokens, case.top))
        self.biases: Matrices | None = None
        """Those of gate, up and down, each (experts, outputs)."""
        if case.has_biases:
            gate, up, down = (0.1 * case.activations(case.experts, outputs) for outputs in (case.N, case.N, case.K))
            self.biases = short_mantissas(gate), short_mantissas(up), short_mantissas(down)

    @property
    def inner_shared(self) -> int:
        """The inner size of all shared experts together."""
        return self.case.shared_experts * self.case.N

    def run(self, experts: np.ndarray) -> Any:
        self.copy = (self.copy + 1) % self.copies
        return self.compute(experts)

    @abstractmethod
    def compute(self, experts: np.ndarray) -> Any:
        """Make one call with the weights of self.copy, for experts of shape (tokens, top)."""

    @abstractmethod
    def values(self, result: Any) -> np.ndarray:
        """Return the result of a call in shape (tokens, K), of any float type."""

    @abstractmethod
    def matrices(self, expert: int | None) -> Matrices:
        """Return gate, up and down of an expert in self.copy, as the peer has them. None stands for the shared experts."""

    def error(self, experts: np.ndarray, result: Any, random: np.random.Generator) -> float:
        """Return the relative error of 256 outputs of one token, as it is measured for gqmm.

        It is the root mean square of the errors, divided by that of the float64 results.
        """
        token = int(random.integers(len(experts)))
        columns = random.integers(self.case.K, size=256)
        expected = self.reference(token, experts[token], columns)
        errors = self.values(result)[token, columns].astype(np.float64) - expected
        return float(np.sqrt(np.sum(errors**2) / np.sum(expected**2)))

    def reference(self, token: int, experts: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Compute outputs of a token in float64, from the operands that the peer has."""
        slots: list[tuple[float, int | None]] = list(zip(self.router_weights[token].tolist(), experts.tolist(), strict=True))
        if self.case.shared_experts > 0:
            slots.append((1.0, None))
        x, y = self.x[token].astype(np.float64), np.zeros(len(columns))
        for weight, expert in slots:
            gate, up, down = self.matrices(expert)
            g, u = gate.astype(np.float64) @ x, up.astype(np.float64) @ x
            if expert is None or self.biases is None:
                y += weight * (down[columns].astype(np.float64) @ self.activation(g, u))
            else:
                gate_bias, up_bias, down_bias = (bias[expert].astype(np.float64) for bias in self.biases)
                h = self.activation(g + gate_bias, u + up_bias)
                y += weight * (down[columns].astype(np.float64) @ h + down_bias[columns])
        return y
