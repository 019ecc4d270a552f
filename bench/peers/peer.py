"""What every peer has: its name, and a product whose time and error are measured."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


def missing(library: str) -> bool:
    return importlib.util.find_spec(library) is None


class Measured(Protocol):
    """What is measured of a peer."""

    def run(self, experts: np.ndarray, /) -> Any:
        """Make one call for experts of shape (tokens, top)."""

    def error(self, experts: np.ndarray, result: Any, random: np.random.Generator) -> float:
        """Return the relative error of the result of the latest call, as it is measured for gqmm."""


@dataclass
class PeerProduct:
    """A peer's product with its operands. Speed and error are measured with the same function."""

    run: Callable[[np.ndarray], Any]
    """Makes one call for experts of shape (tokens, top)."""
    values: Callable[[Any], np.ndarray]
    """Returns the result of a call in shape (pairs, N), of any float type."""
    factors: Callable[[np.ndarray, int, np.ndarray], tuple[np.ndarray, np.ndarray]]
    """Takes (experts, row, columns). Returns the row of x, (K,), and the rows of w, (columns, K), as the peer has them. Their
    products are result[row, columns]."""

    def error(self, experts: np.ndarray, result: Any, random: np.random.Generator) -> float:
        """Return the relative error at 256 random places, as it is measured for gqmm.

        It is the root mean square of the errors, divided by that of the float64 results.
        """
        values, errors, squares = self.values(result), 0.0, 0.0
        for row in random.integers(len(values), size=16):
            columns = random.integers(values.shape[1], size=16)
            x, w = self.factors(experts, int(row), columns)
            expected = w.astype(np.float64) @ x.astype(np.float64)
            errors += float(np.sum((values[row, columns].astype(np.float64) - expected) ** 2))
            squares += float(np.sum(expected**2))
        return float(np.sqrt(errors / squares))


@dataclass
class Peer:
    name: str
    version: str
    computes: str
    prepare: Callable[[], Measured] | None = None
    weight_bytes: float = 0
    skipped: str = ""
    error: float = 0
