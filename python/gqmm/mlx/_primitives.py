"""Which primitives a model's graphs have: gqmm's, MLX's own, and those that only move elements."""

from __future__ import annotations

import importlib
import os
import re
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
from mlx.utils import tree_flatten

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

# Primitives of MLX that make, move or copy elements. They round nothing.
_MOVES = re.compile(
    "Arange|AsStrided|Broadcast|BroadcastAxes|Concatenate|Contiguous|Copy|CustomTransforms|Depends|DynamicSlice|DynamicSliceUpdate|"
    "ExpandDims|Flatten|Full|Gather|GatherAxis|Load|NumberOfElements|Pad|Reshape|Scatter|ScatterAxis|Slice|SliceUpdate|Split|"
    r"Squeeze|StopGradient|Transpose|Unflatten|View \w+"
)
_OF_GQMM = "Gqmm"


@dataclass(frozen=True)
class Primitives:
    """The names of primitives, sorted."""

    of_gqmm: tuple[str, ...]  # without the prefix that all of them have
    of_mlx: tuple[str, ...]  # without those that only move elements


def _names_in_graph(array: mx.array) -> set[str]:
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "graph.dot")
        mx.export_to_dot(file, array)
        return set(re.findall(r'label ="([^"]+)", shape=rectangle', Path(file).read_text()))


@contextmanager
def _watched_evaluations(see: Callable[[mx.array], None]) -> Iterator[None]:
    """Let `see` have every array that a model evaluates itself, before it does so. Afterwards the array has no graph any more."""

    def watched(evaluate: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            leaves: Any = tree_flatten(list(arguments))  # its hint also allows a dict
            for _, array in leaves:
                if isinstance(array, mx.array):
                    see(array)
            return evaluate(*arguments, **named)

        return call

    places: list[tuple[Any, str]] = [(mx, "eval"), (mx, "async_eval"), (mx.array, "item"), (mx.array, "tolist")]
    originals = [(owner, name, getattr(owner, name)) for owner, name in places]
    try:
        for owner, name, evaluate in originals:
            setattr(owner, name, watched(evaluate))
        yield
    finally:
        for owner, name, evaluate in originals:
            setattr(owner, name, evaluate)


def cache_of(model: Any) -> list[Any]:
    """Make the cache of a model of mlx-lm, one object for each layer."""
    caches: list[Any] = importlib.import_module("mlx_lm.models.cache").make_prompt_cache(model)
    return caches


def primitives_of(model: Any, pieces: Sequence[mx.array]) -> Primitives:
    """Return the primitives in the graphs of these pieces of a request, which the model evaluates in turn with one cache."""
    names: set[str] = set()
    cache = cache_of(model)
    for piece in pieces:
        with _watched_evaluations(lambda array: names.update(_names_in_graph(array))):
            logits = model(piece, cache=cache)
        names.update(_names_in_graph(logits))
        mx.eval(logits)
    of_gqmm = {name for name in names if name.startswith(_OF_GQMM)}
    return Primitives(
        of_gqmm=tuple(sorted(name.removeprefix(_OF_GQMM) for name in of_gqmm)),
        of_mlx=tuple(sorted(name for name in names - of_gqmm if not _MOVES.fullmatch(name))),
    )
