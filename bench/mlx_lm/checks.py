"""What a reader must know to judge a comparison: whether both sides compute the same, and whether weights come from memory."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from .jobs import Job, finish
from .model import RandomModel
from .sides import Side

ROUTED_STEPS = 64


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


def difference(model: RandomModel, side: Side) -> float:
    """Return the relative difference between the logits of the side and of stock MLX, for one token.

    It is the root mean square of the differences, divided by that of stock MLX's logits. Both sides choose the same experts for
    the token, unless two experts have nearly equal probabilities.
    """

    def logits() -> Any:
        y = model.model(mx.array([[1]]), cache=make_prompt_cache(model.model)).astype(mx.float32)
        mx.eval(y)
        return y

    theirs = logits()
    with side.installed():
        ours = logits()
    return math.sqrt(mx.mean((ours - theirs) ** 2).item() / mx.mean(theirs**2).item())


def routing(job: Job, side: Side) -> dict[str, Any]:
    """Count how many experts two decoding steps share. It tells whether their weights can have stayed in cache."""
    layer = job.model.experts
    if layer is None:
        return {"steps": 0, "experts_hit": 0, "shared_with_step_before": 0.0}
    chosen: list[Any] = []
    kind = type(layer)
    with side.installed():
        original = kind.__call__

        def noting(self: Any, x: Any, indices: Any) -> Any:
            if self is layer:
                chosen.append(indices)
            return original(self, x, indices)

        with replaced(kind, "__call__", noting):
            for _ in itertools.islice(job.decoding(), ROUTED_STEPS):
                pass
            finish()
    sets = [set(indices.flatten().tolist()) for indices in chosen[1 : ROUTED_STEPS + 1]]
    shared = [len(one & other) for one, other in itertools.pairwise(sets)]
    return {"steps": len(sets), "experts_hit": len(set().union(*sets)), "shared_with_step_before": statistics.fmean(shared)}
