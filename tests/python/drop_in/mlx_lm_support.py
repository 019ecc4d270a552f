"""What the tests of mlx-lm on the drop-in share: the two sides, stock and ours, and how to compare them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import gqmm.mlx as drop_in
import mlx.core as mx
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[3]
OURS = ROOT / "models" / "shakespeare-moe-affine4"

sys.path.insert(0, str(ROOT / "examples"))

Result = TypeVar("Result")


def checkpoints() -> list[Any]:
    """pytest parameters: the checkpoint in models/, and the others under the folder that GQMM_TEST_MODELS names."""
    name = os.environ.get("GQMM_TEST_MODELS")
    if not name:
        why = "GQMM_TEST_MODELS is not set: it names a folder with more checkpoints to test"
    elif found := sorted({path.parent.name for path in Path(name).glob("*/config.json")} - {OURS.name}):
        return [pytest.param(folder, id=folder.name) for folder in [OURS, *(Path(name) / other for other in found)]]
    else:
        why = f"GQMM_TEST_MODELS names {name}, where there is no checkpoint but {OURS.name}"
    return [pytest.param(OURS, id=OURS.name), pytest.param(None, id="GQMM_TEST_MODELS", marks=pytest.mark.skip(reason=why))]


def calls() -> dict[str, tuple[int, int]]:
    """How often each product ran so far: (ours, stock)."""
    return {name: (count.ours, count.stock) for name, count in drop_in.status().calls.items()}


@contextmanager
def stock() -> Iterator[None]:
    """MLX as it is: the drop-in must take no part."""
    assert not drop_in.status().installed, "an earlier test left the drop-in installed"
    before = calls()
    yield
    assert not drop_in.status().installed
    assert calls() == before, "the drop-in took part in what is to be stock"


@contextmanager
def ours(*products: str, pack: bool = False) -> Iterator[None]:
    """With the drop-in. Each of the named products must run, and no product may fall back to stock."""
    with drop_in.install(pack=pack):
        assert drop_in.status().installed
        before = calls()
        yield
        assert (drop_in.status().packed_arrays > 0) == pack
        ran = {name: (a - before[name][0], b - before[name][1]) for name, (a, b) in calls().items()}
    assert not drop_in.status().installed, "leaving the context did not uninstall"
    assert [name for name in products if not ran[name][0]] == [], f"never ran; (ours, stock) of each: {ran}"
    assert [name for name, (_, fallbacks) in ran.items() if fallbacks] == [], f"fell back; (ours, stock) of each: {ran}"


def both(function: Callable[[], Result], *products: str, pack: bool = False) -> tuple[Result, Result]:
    """What the function returns on stock MLX and with the drop-in. It must return nothing that is still to be evaluated."""
    with stock():
        theirs = function()
    with ours(*products, pack=pack):
        return theirs, function()


def evaluated(array: mx.array) -> np.ndarray:
    return np.array(array.astype(mx.float32))


def assert_close(actual: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    assert actual.shape == expected.shape
    error = np.abs(actual - expected)
    worst = np.unravel_index(error.argmax(), error.shape)  # a NaN, if there is one
    at = tuple(map(int, worst))
    assert error[worst] <= tolerance, (
        f"at {at}: {actual[worst]!r}, stock {expected[worst]!r}: {error[worst]:.2g} apart, more than {tolerance:.2g}"
    )
