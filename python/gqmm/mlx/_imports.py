"""Run a function with modules once they have been imported, and replace objects in modules."""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from types import FunctionType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType


class AfterImport(importlib.abc.MetaPathFinder):
    """Calls a function with modules of given names: at once with those that are imported already, later with others."""

    def __init__(self, names: Collection[str], function: Callable[[ModuleType], None]) -> None:
        self._names = frozenset(names)
        self._function = function
        self._searches = False  # find_spec asks the other finders
        self.active = False

    def start(self) -> None:
        """Call the function from now on. Does nothing if it is active already."""
        if self.active:
            return
        self.active = True
        for name in self._names:
            if name in sys.modules:
                self._function(sys.modules[name])
        sys.meta_path.insert(0, self)

    def stop(self) -> None:
        """Call the function no more."""
        self.active = False
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Find the module as other finders do, and call the function once it has run."""
        if name not in self._names or self._searches:
            return None
        self._searches = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._searches = False
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def run_and_call(module: ModuleType) -> None:
            run(module)
            if self.active:
                self._function(module)

        spec.loader.exec_module = run_and_call  # type: ignore[method-assign]
        return spec


class ReplacedAfterImport:
    """Something of other modules that is replaced at once in modules that are imported already, and later in others."""

    _imports: AfterImport

    @property
    def installed(self) -> bool:
        """Whether it is replaced, or will be once its modules are imported."""
        return self._imports.active

    def install(self) -> None:
        """Replace it in every module that has it. Does nothing if it is replaced already."""
        self._imports.start()


def rebind(old: Any, new: Any) -> None:
    """Replace an object in all modules of mlx-lm and mlx.nn, whoever imported it from where.

    Modules have it in variables, in tables (`{"silu": nn.silu}`) and in default arguments (`def __init__(self, act=nn.silu)`).
    """
    for name, module in list(sys.modules.items()):
        if f"{name}.".startswith(("mlx_lm.", "mlx.nn.")):
            _rebind_in(module, old, new)


def _rebind_in(owner: ModuleType | type, old: Any, new: Any) -> None:
    """Replace an object in the variables of a module or of a class, and one step below them."""
    for variable, value in list(vars(owner).items()):
        if value is old:
            setattr(owner, variable, new)
        elif isinstance(value, dict) and not variable.startswith("__"):
            value.update({key: new for key, each in value.items() if each is old})
        elif isinstance(value, FunctionType):
            _rebind_defaults(value, old, new)
        elif isinstance(value, type) and value.__module__ == owner.__name__:
            _rebind_in(value, old, new)


def _rebind_defaults(function: FunctionType, old: Any, new: Any) -> None:
    if any(each is old for each in function.__defaults__ or ()):
        function.__defaults__ = tuple(new if each is old else each for each in function.__defaults__ or ())
    if any(each is old for each in (function.__kwdefaults__ or {}).values()):
        function.__kwdefaults__ = {key: new if each is old else each for key, each in (function.__kwdefaults__ or {}).items()}
