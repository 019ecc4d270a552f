"""The settings of a case, and the routing of its tokens."""

from __future__ import annotations

from typing import Any

import numpy as np


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
        self.weights = self.experts * self.N * self.K
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
