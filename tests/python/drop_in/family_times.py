"""Where the time of a family's layers goes: what stock MLX and gqmm take, and which of MLX's own operations take most of ours.

Times are those of the processor, with one thread on either side, so that other programs on the machine change them little.
"""

from __future__ import annotations

import functools
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import gqmm
import gqmm.mlx as drop_in
import mlx.core as mx
import numpy as np
from families import VOCABULARY, Family
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm_support import build, size_of

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench_modules import load_mlx_lm

breakdown = load_mlx_lm("breakdown")

PROMPT, STEPS = 24, 8
ROUNDS = 3  # of a request without a profile and with one


@dataclass(frozen=True)
class Times:
    """What the processor took for the layers of a prompt, and for those of a single token after it."""

    stock: tuple[float, float]  # seconds
    ours: tuple[float, float]  # seconds
    of_mlx: tuple[dict[str, float], dict[str, float]]  # by operation, which part of our time MLX's own take
    difference: float  # between stock's logits and ours, the largest, in root mean squares of stock's


class _Layers:
    """Measures the layers of a model, without embedding and head, while `attached()` lasts."""

    def __init__(self, types: set[type]) -> None:
        self.seconds = 0.0
        self.inside = False
        self._types = types

    def _replacement(self, call: Any) -> Any:
        @functools.wraps(call)
        def measured(*arguments: Any, **named: Any) -> Any:
            if self.inside:  # a layer may have layers
                return call(*arguments, **named)
            mx.eval(breakdown.arrays_in((list(arguments[1:]), named)))
            self.inside, start = True, time.process_time()
            try:
                result = call(*arguments, **named)
                mx.eval(breakdown.arrays_in([result]))
            finally:
                self.inside = False
            self.seconds += time.process_time() - start
            return result

        return measured

    @contextmanager
    def attached(self) -> Iterator[None]:
        with ExitStack() as stack:
            for each, call in [(each, each.__call__) for each in self._types]:
                stack.enter_context(patch.object(each, "__call__", self._replacement(call)))
            yield


class _OfMlx(breakdown.Profile):
    """The seconds of each operation of the layers in which gqmm computes nothing."""

    def __init__(self, layers: _Layers) -> None:
        super().__init__(time.process_time)
        self._layers = layers
        self.of_mlx: Counter[str] = Counter()

    def section(self, name: str, function: Any, *arguments: Any, **named: Any) -> Any:
        if not self._layers.inside:
            return function(*arguments, **named)
        return super().section(name, function, *arguments, **named)

    def add(self, name: str, seconds: float, ours: float) -> None:
        if not ours:
            self.of_mlx[name] += max(0.0, seconds)


def _pieces() -> Iterator[mx.array]:
    tokens = mx.random.randint(0, VOCABULARY, (1, PROMPT + STEPS), key=mx.random.key(7))
    yield tokens[:, :PROMPT]
    for place in range(PROMPT, PROMPT + STEPS):
        yield tokens[:, place : place + 1]


def _seconds(model: Any, types: set[type]) -> tuple[np.ndarray, tuple[float, float]]:
    """Evaluate a prompt and single tokens. Return the logits, and the seconds of the prompt and of the fastest token."""
    cache, layers = make_prompt_cache(model), _Layers(types)
    logits, seconds = [], []
    with layers.attached():
        for piece in _pieces():
            layers.seconds = 0.0
            logits.append(np.array(model(piece, cache=cache)))
            seconds.append(layers.seconds)
    return np.concatenate(logits, axis=1), (seconds[0], min(seconds[1:]))


def _seconds_of_mlx(model: Any, types: set[type]) -> tuple[dict[str, float], dict[str, float]]:
    """Return the seconds of MLX's operations for the prompt, and for a token: of each operation the median over all tokens."""
    cache, layers = make_prompt_cache(model), _Layers(types)
    profile, found = _OfMlx(layers), []
    with layers.attached(), profile.operations.attached():
        for piece in _pieces():
            profile.of_mlx.clear()
            mx.eval(model(piece, cache=cache))
            found.append(profile.of_mlx.copy())
    names = {name for of_token in found[1:] for name in of_token}
    return found[0], {name: statistics.median(of_token[name] for of_token in found[1:]) for name in names}


def _shares(rounds: list[dict[str, float]], seconds: float) -> dict[str, float]:
    """Return which part of the seconds each operation takes, in the round in which it took least."""
    return {name: min(of_mlx.get(name, 0.0) for of_mlx in rounds) / seconds for of_mlx in rounds for name in of_mlx}


def times_of(family: Family) -> Times:
    """Measure a family in float32 at the widths of a small real model."""
    model = build(replace(family, config=family.wide_config))
    types = {type(layer) for layer in model.layers}
    with _one_thread():
        expected, stock = _seconds(model, types)
        if not stock[0]:  # the model calls parts of its layers; then all of it is measured
            types = {type(model)}
            expected, stock = _seconds(model, types)
        with drop_in.install():
            requests = [_seconds(model, types) for _ in range(ROUNDS)]
            prompts, tokens = zip(*[_seconds_of_mlx(model, types) for _ in range(ROUNDS)], strict=True)
    logits, ours = requests[0][0], tuple(min(seconds[i] for _, seconds in requests) for i in (0, 1))
    finite = np.isfinite(expected)
    difference = float(np.abs(logits[finite] - expected[finite]).max()) / size_of(expected)
    return Times(stock, ours, (_shares(prompts, ours[0]), _shares(tokens, ours[1])), difference)


@contextmanager
def _one_thread() -> Iterator[None]:
    gqmm.set_num_threads(1)
    try:
        yield
    finally:
        gqmm.set_num_threads(0)
