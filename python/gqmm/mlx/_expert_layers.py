"""The expert layers of models of mlx-lm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gqmm.mlx._moe import CLASSES

if TYPE_CHECKING:
    from collections.abc import Iterator


def expert_layers(model: Any) -> Iterator[tuple[str, Any, tuple[str, ...]]]:
    """Yield each layer of experts of a model once: its name, the layer, and the names of its linear layers."""
    found = set()
    for name, module in sorted(model.named_modules(), key=lambda named: named[0]):
        kind = type(module)
        names = CLASSES.get(kind.__name__)
        if kind.__module__ == "mlx_lm.models.switch_layers" and names is not None and id(module) not in found:
            found.add(id(module))
            yield name, module, names


def num_experts(layer: Any, names: tuple[str, ...]) -> int:
    """Return how many experts a layer has."""
    return int(layer[names[0]]["weight"].shape[0])
