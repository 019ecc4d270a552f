"""Make threadpoolctl limit the threads of gqmm, as it limits those of BLAS and OpenMP libraries."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from gqmm._gqmm import available_threads, version

NAME = "threadpoolctl"


def register() -> None:
    """Register a controller with the user API "gqmm", now or when threadpoolctl is imported.

    threadpoolctl is no dependency. It is not imported here, because its import changes environment variables.
    """
    program = sys.modules.get("__main__")
    if getattr(getattr(program, "__spec__", None), "name", None) == NAME:  # python -m threadpoolctl
        _register_with(program)
    module = sys.modules.get(NAME)
    if module is not None:
        _register_with(module)
    else:
        sys.meta_path.insert(0, _AtImport())


def _register_with(threadpoolctl: Any) -> None:
    if not hasattr(threadpoolctl, "register"):  # before 3.2
        return
    base: Any = threadpoolctl.LibController

    class GqmmController(base):  # type: ignore[misc]  # it has no type hints
        """A controller that gets and sets the number of threads through the C functions of gqmm/c.h."""

        user_api = "gqmm"
        internal_api = "gqmm"
        filename_prefixes = ("libgqmm",)
        check_symbols = ("gqmm_get_num_threads", "gqmm_set_num_threads")

        by_default = 0  # the number that the machine granted at the last question, while nobody had chosen a number

        def get_num_threads(self) -> int:
            num_threads = int(self.dynlib.gqmm_get_num_threads())
            with contextlib.suppress(ValueError):  # GQMM_NUM_THREADS is wrong; the first call of an operator reports that
                self.by_default = num_threads if num_threads == available_threads() else self.by_default
            return num_threads

        def set_num_threads(self, num_threads: int) -> int:
            # When a limit ends, threadpoolctl sets the number from before the limit. If that was what the machine granted,
            # 0 makes calls follow the machine again.
            num_threads = 0 if num_threads == self.by_default else num_threads
            return int(self.dynlib.gqmm_set_num_threads(ctypes.c_int(num_threads)))

        def get_version(self) -> str:
            return version()

        def set_additional_attributes(self) -> None:
            pass

    threadpoolctl.register(GqmmController)


class _AtImport(importlib.abc.MetaPathFinder):
    """A finder that imports threadpoolctl by its usual loader and then registers the controller."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != NAME:
            return None
        with contextlib.suppress(ValueError):
            sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            _register_with(module)

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec
