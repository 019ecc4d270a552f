"""Mark the arrays that lend their memory to other libraries, from the import of gqmm.mlx on.

A NumPy view, a memoryview or a tensor made by DLPack shares an array's memory, and may write to it unnoticed. Packed copies must
not be made of such arrays. The extension watches the buffer protocol. This module watches the methods that lend memory, and finds
the arrays that have lent it before.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import mlx.core as mx

from gqmm.mlx._load import extension

_LENDING = ("__dlpack__", "__array__")


def _watched(name: str) -> Any:
    """Wrap the method of mx.array with this name. The wrapper marks the array as lent, or as failed."""
    method = getattr(mx.array, name)

    def lend(self: mx.array, *arguments: Any, **keywords: Any) -> Any:
        try:
            result = method(self, *arguments, **keywords)
        except RuntimeError as error:
            extension.mark_failed(self, str(error))
            raise
        extension.mark_lent(self)
        return result

    lend.__name__ = name
    lend.__qualname__ = f"array.{name}"
    lend.__doc__ = method.__doc__
    return lend


def _reachable_arrays() -> Iterator[mx.array]:
    """Yield the arrays in the containers that Python's garbage collector knows, and in the variables of running functions."""
    for holder in gc.get_objects():
        # isinstance and the methods of a subclass are not used, because they may run code of other people's classes.
        kind = type(holder)
        values: list[Any] = []
        if issubclass(kind, dict):
            values = list(dict.values(holder))
        elif issubclass(kind, list):
            values = list(list.__iter__(holder))
        elif issubclass(kind, tuple):
            values = list(tuple.__iter__(holder))
        yield from (value for value in values if type(value) is mx.array)
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        yield from (value for value in frame.f_locals.values() if type(value) is mx.array)
        frame = frame.f_back


def _mark_lent_before() -> None:
    """Mark the arrays that may have lent their memory already.

    An array with a memoryview has lent it, and every NumPy view has a memoryview. DLPack may have lent an array that is held
    twice.
    """
    for view in gc.get_objects():
        if type(view) is memoryview:
            try:
                owner = view.obj
            except ValueError:  # the view has been released
                continue
            if isinstance(owner, mx.array):
                extension.mark_lent(owner)
    for array in _reachable_arrays():
        if extension.is_shared(array):
            extension.mark_lent(array)


def watch() -> None:
    """Watch mx.array from now on. A second call changes nothing."""
    if extension.__dict__.setdefault("is_watching", False):
        return
    extension.is_watching = True
    extension.watch_buffers(mx.array)
    for name in _LENDING:
        setattr(mx.array, name, _watched(name))
    _mark_lent_before()
