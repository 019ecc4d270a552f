"""Measures calls on arrays whose product costs next to nothing: what a call costs besides its product."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx

from .sides import Side

CALLS = 200  # calls of a turn
CALLS_PER_EVAL = (1, 100)  # with 1, MLX's thread must wake for each call; with 100, the calls are as within a model


def tiny_calls(side: Side, turns: int) -> Iterator[dict[str, Any]]:
    """Measure the cost of a call besides its product: one row for one of 8 experts with N = K = 64, called as by mlx-lm."""
    dtype = side.dtype
    kind = getattr(mx, dtype)
    dense = mx.random.normal((8, 64, 64)).astype(kind)
    x, expert = mx.random.normal((1, 1, 64)).astype(kind), mx.array([3], mx.uint32)
    codes = mx.quantize(dense, group_size=64, bits=4)
    one = [array[0] for array in codes]
    format_ = {"transpose": True, "group_size": 64, "bits": 4, "mode": "affine"}
    mx.eval(dense, x, expert, codes, one)
    calls: dict[str, tuple[Any, dict[str, Any]]] = {
        "gather_qmm": ((x, *codes), {"rhs_indices": expert, **format_, "global_scale": None, "sorted_indices": False}),
        "quantized_matmul": ((x[0], *one), format_),
    }
    if dtype == "float32":  # MLX's own gather_mm has no other type on the CPU
        calls["gather_mm"] = ((x, dense), {"rhs_indices": expert, "sorted_indices": False})
    for (name, (arguments, settings)), per_eval in itertools.product(calls.items(), CALLS_PER_EVAL):

        def seconds_of(function: Callable[..., Any], arguments: Any = arguments, settings: Any = settings,
                       per_eval: int = per_eval) -> float:  # fmt: skip
            start = time.perf_counter()
            for _ in range(CALLS // per_eval):
                mx.eval([function(*arguments, **settings) for _ in range(per_eval)])
            return (time.perf_counter() - start) / CALLS

        stock = getattr(mx, name)
        with side.installed():
            ours = getattr(mx, name)
            seconds_of(stock), seconds_of(ours)
            pairs = [(seconds_of(stock), seconds_of(ours)) for _ in range(turns)]
        yield {
            "function": name,
            "dtype": dtype,
            "calls_per_eval": per_eval,
            "calls_per_turn": CALLS,
            "stock": [pair[0] for pair in pairs],
            "ours": [pair[1] for pair in pairs],
            "difference": [pair[1] - pair[0] for pair in pairs],
        }
