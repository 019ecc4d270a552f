"""Functions of modules that install() replaces by others with the same arguments."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any

from gqmm.mlx._imports import AfterImport, ReplacedAfterImport, rebind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import ModuleType


class FunctionsReplacedAfterImport(ReplacedAfterImport):
    """Functions of modules, with what replaces them: functions of the same arguments that return None where stock's shall run."""

    def __init__(self, functions: Mapping[str, Mapping[str, Callable[..., Any]]]) -> None:
        """Take the functions by module and name."""
        self._functions = functions
        self._replaced: list[tuple[Any, Any]] = []  # stock functions and gqmm's
        self._imports = AfterImport(tuple(functions), self._replace)

    def uninstall(self) -> None:
        """Restore the stock functions."""
        if not self.installed:
            return
        self._imports.stop()
        for stock, ours in self._replaced:
            rebind(ours, stock)

    def _replace(self, module: ModuleType) -> None:
        for name, ours in self._functions[module.__name__].items():
            found = getattr(module, name, None)
            # Another version of mlx-lm may lack it, and a module that runs twice may have gqmm's already.
            if found is None or any(found is function for _, function in self._replaced):
                continue
            pair = next((pair for pair in self._replaced if pair[0] is found), None)
            if pair is None:
                pair = (found, self._function(found, ours))
                self._replaced.append(pair)
            rebind(*pair)

    def _function(self, stock: Any, ours: Callable[..., Any]) -> Any:
        @wraps(stock)
        def function(*args: Any, **kwargs: Any) -> Any:
            # A program may have kept this function.
            y = ours(*args, **kwargs) if self.installed else None
            return stock(*args, **kwargs) if y is None else y

        return function
