"""The weight formats, as the extension lists them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from gqmm import _gqmm

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Format(NamedTuple):
    """A weight format: a mode and its bits, and the group sizes that the operators take with them."""

    mode: str
    bits: int
    group_sizes: tuple[int, ...]
    default_group_size: int
    is_default: bool
    """Whether a call that gives this mode and no bits gets this format."""
    codes: str
    """The type of a code, by its name in ml_dtypes, for example "uint4" or "float8_e4m3fn"."""
    scales: str | None
    """The type of a scale, by its name in ml_dtypes. None stands for float16, bfloat16 or float32."""
    has_biases: bool
    has_global_scale: bool


def formats() -> list[Format]:
    """List every weight format that the operators take."""
    return [Format(*fields) for fields in _gqmm.formats()]


def documented(function: _Function) -> _Function:
    """Replace the placeholders of the function's docstring by the extension's texts about formats."""
    if function.__doc__:
        function.__doc__ = function.__doc__.format_map(_gqmm.format_texts())
    return function
