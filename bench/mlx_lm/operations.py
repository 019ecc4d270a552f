"""Finds every operation of MLX that a model calls, and lets something else call it instead."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx
from gqmm.mlx._load import extension
from gqmm.mlx._slots import block_is_running

# Functions of mx that compute nothing themselves.
NOT_OPERATIONS = ("eval", "async_eval", "compile", "disable_compile", "enable_compile", "synchronize", "stream", "new_stream",
                  "new_thread_local_stream", "clear_cache", "default_device", "default_stream", "set_default_device",
                  "set_default_stream", "clear_streams", "issubdtype", "is_available", "device_info", "device_count",
                  "broadcast_shapes", "result_type", "checkpoint", "custom_function")  # fmt: skip
METHODS = ("abs", "all", "any", "argmax", "argmin", "astype", "cos", "cummax", "cumsum", "diagonal", "exp", "flatten", "log",
           "logsumexp", "max", "maximum", "mean", "min", "minimum", "moveaxis", "prod", "reciprocal", "reshape", "rsqrt", "sin",
           "split", "sqrt", "square", "squeeze", "sum", "swapaxes", "transpose", "var")  # fmt: skip
ARITHMETIC = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul")
UNARY = ("getitem", "setitem", "neg", "invert", "and", "or", "lt", "le", "gt", "ge", "eq", "ne")

Section = Callable[..., Any]
"""Takes the name of an operation, its function, and the arguments. Returns what the function returns."""


def _names(owner: Any) -> Iterator[str]:
    for name, value in list(vars(owner).items()):
        if not name.startswith("_") and type(value).__name__ == "nb_func" and name not in NOT_OPERATIONS:
            yield name


class Operations:
    """Replaces the operations while `attached()` lasts.

    An operation inside another one, such as those of a function that mx.compile made, counts as a part of that one.
    """

    def __init__(self, section: Section) -> None:
        self.section = section
        self.inside = False
        self.replacements: dict[int, tuple[Any, Any]] = {}  # by the id of the original, which is kept

    def replacement(self, name: str, original: Any) -> Any:
        if id(original) not in self.replacements:

            @functools.wraps(original)
            def call(*arguments: Any, **named: Any) -> Any:
                if self.inside or self.is_only_lazy(name, arguments):
                    return original(*arguments, **named)
                self.inside = True
                try:
                    return self.section(name, original, *arguments, **named)
                finally:
                    self.inside = False

            self.replacements[id(original)] = (original, call)
        return self.replacements[id(original)][1]

    @staticmethod
    def is_only_lazy(name: str, arguments: tuple[Any, ...]) -> bool:
        """Whether nothing uses the result. Slots of experts are such arrays: the model uses their sum alone."""
        if name == "moe_ffn" and len(arguments) > 2 and arguments[2] is None and block_is_running():
            return True
        return any(isinstance(a, mx.array) and type(a) is not mx.array for a in arguments)

    @contextlib.contextmanager
    def attached(self) -> Iterator[None]:
        places: list[tuple[Any, str]] = [(owner, name) for owner in (mx, mx.fast, mx.random, extension) for name in _names(owner)]
        places += [(mx.array, name) for name in METHODS if hasattr(mx.array, name)]
        dunder = [f"__{kind}{name}__" for name in ARITHMETIC for kind in ("", "r", "i")] + [f"__{name}__" for name in UNARY]
        places += [(mx.array, name) for name in dunder if hasattr(mx.array, name)]
        with contextlib.ExitStack() as stack:
            for owner, name in places:
                self.replace(stack, owner, name, getattr(owner, name))
            self.replace_in_modules(stack)
            yield

    def replace_in_modules(self, stack: contextlib.ExitStack) -> None:
        """Replace functions that mx.compile made, and what modules imported by name."""
        compiled = type(mx.compile(lambda x: x))
        known = dict(self.replacements)
        for module_name, module in list(sys.modules.items()):
            if module is None or not module_name.startswith(("mlx_lm.", "mlx.nn")):
                continue
            for name, value in list(vars(module).items()):
                if type(value) is compiled or id(value) in known:
                    self.replace(stack, module, name, value)

    def replace(self, stack: contextlib.ExitStack, owner: Any, name: str, value: Any) -> None:
        setattr(owner, name, self.replacement(name.strip("_"), value))
        stack.callback(setattr, owner, name, value)
