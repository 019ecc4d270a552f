"""Start a package from its sources. The arguments are its name, the name of a module, its text, the name of the next, ….

`gqmm bench` runs this text with `python -c`, so that it needs no files wherever it is installed.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


class CarriedModules(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Finds and loads the modules whose sources it holds."""

    def __init__(self, sources: dict[str, str]) -> None:
        self.sources = sources

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        return importlib.util.spec_from_loader(name, self) if name in self.sources else None

    def get_source(self, name: str) -> str:
        return self.sources[name]

    def is_package(self, name: str) -> bool:
        return "." not in name


package, *modules = sys.argv[1:]
sys.meta_path.insert(0, CarriedModules(dict(zip(modules[::2], modules[1::2], strict=True))))
importlib.import_module(f"{package}.main").main()
