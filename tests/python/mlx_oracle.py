"""MLX as an oracle: NumPy arrays in, NumPy arrays out."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import oracle

MLX_DTYPES = {oracle.float32: mx.float32, oracle.float16: mx.float16, oracle.bfloat16: mx.bfloat16}


def to_mlx(a: Any) -> Any:
    if not isinstance(a, np.ndarray):
        return a
    if a.dtype == oracle.bfloat16:
        return mx.array(np.array(a, order="C").view(np.uint16)).view(mx.bfloat16)
    return mx.array(np.array(a, order="C"))


def to_numpy(a: mx.array) -> np.ndarray:
    if a.dtype == mx.bfloat16:
        return np.array(a.view(mx.uint16)).view(oracle.bfloat16)
    return np.array(a)


def call(function: Any, *args: Any, **kwargs: Any) -> Any:
    """Calls an mlx.core function on NumPy arguments."""
    result = function(*map(to_mlx, args), **{key: to_mlx(value) for key, value in kwargs.items()})
    return to_numpy(result) if isinstance(result, mx.array) else tuple(map(to_numpy, result))


def _knows(mode: str) -> bool:
    try:
        mx.quantize(mx.ones((1, 128)), mode=mode)
    except ValueError:
        return False
    return True


MODES = [mode for mode in oracle.MODES if _knows(mode)]
"""The modes of gqmm that MLX has too."""


def of_mlx(settings: list[oracle.Setting]) -> list[oracle.Setting]:
    """The settings of those modes."""
    return [setting for setting in settings if setting.mode in MODES]
