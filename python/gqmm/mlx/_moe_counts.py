"""Count how often a model's routers choose each expert."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from gqmm.mlx._expert_layers import expert_layers, num_experts

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

_CALLS_KEPT = 64


class _Counter:
    """The counts of one layer. Ids are counted some calls later, so that MLX need not compute each step at once."""

    def __init__(self, experts: int) -> None:
        self._counts = np.zeros(experts, np.int64)
        self._calls: list[mx.array] = []

    def add(self, indices: mx.array) -> None:
        self._calls.append(indices)
        if len(self._calls) >= _CALLS_KEPT:
            self.counts()

    def counts(self) -> npt.NDArray[np.int64]:
        for indices in self._calls:
            self._counts += np.bincount(np.array(indices).reshape(-1), minlength=len(self._counts))
        self._calls.clear()
        return self._counts.copy()


class _CountingLayer:
    """The base class that is added to the class of a layer while its experts are counted."""

    def __call__(self: Any, x: mx.array, indices: mx.array) -> mx.array:
        self._expert_counter.add(indices)
        y: mx.array = super().__call__(x, indices)  # type: ignore[misc]
        return y


class ExpertCounts:
    """How often each expert of each layer was chosen since counting began."""

    def __init__(self, counters: dict[str, _Counter]) -> None:
        self._counters = counters

    def by_layer(self) -> dict[str, npt.NDArray[np.int64]]:
        """Return the counts of each layer, shape (E,), by the layer's name in nn.Module.named_modules."""
        return {name: counter.counts() for name, counter in self._counters.items()}

    def total(self) -> npt.NDArray[np.int64]:
        """Return the sum over all layers, shape (E,): what ExpertOwners.by_load takes.

        Raises:
            ValueError: the layers have different numbers of experts.
        """
        counts = self.by_layer()
        if len({len(of_layer) for of_layer in counts.values()}) > 1:
            sizes = {name: len(of_layer) for name, of_layer in counts.items()}
            raise ValueError(f"[count_experts] layers have different numbers of experts: {sizes}; use by_layer()")
        total: npt.NDArray[np.int64] = np.sum(list(counts.values()), axis=0)
        return total


@contextlib.contextmanager
def count_experts(model: Any) -> Iterator[ExpertCounts]:
    """Count the experts that the routers of a model of mlx-lm choose, while the code inside runs the model.

    ::

        with gqmm.mlx.count_experts(model) as counts:
            mlx_lm.generate(model, tokenizer, prompt)
        numpy.savetxt("counts.txt", counts.total(), fmt="%d")

    Args:
        model: a model of mlx-lm, of which the layers SwitchGLU and SwitchMLP are counted.

    Yields:
        The counts, which may be read at any time.

    Raises:
        ValueError: the model has no such layer.
    """
    layers = list(expert_layers(model))
    if not layers:
        raise ValueError("[count_experts] the model has no SwitchGLU or SwitchMLP of mlx_lm.models.switch_layers")
    stock = [(layer, type(layer)) for _, layer, _ in layers]
    counters = {name: _Counter(num_experts(layer, names)) for name, layer, names in layers}
    try:
        for (layer, kind), counter in zip(stock, counters.values(), strict=True):
            object.__setattr__(layer, "_expert_counter", counter)
            body = {"__module__": kind.__module__, "__doc__": kind.__doc__}
            object.__setattr__(layer, "__class__", type(kind.__name__, (_CountingLayer, kind), body))
        yield ExpertCounts(counters)
    finally:
        for layer, kind in stock:
            object.__setattr__(layer, "__class__", kind)
            object.__delattr__(layer, "_expert_counter")
