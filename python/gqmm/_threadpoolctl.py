"""Lets threadpoolctl limit the threads of gqmm, as it limits those of BLAS and OpenMP libraries."""

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
    """Registers a controller with user API "gqmm" now, or when threadpoolctl is imported; it is no dependency.

    It is not imported here, because its import changes environment variables.
    """
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
        """Asks and sets the number of threads through the C functions of gqmm/c.h."""

        user_api = "gqmm"
        internal_api = "gqmm"
        filename_prefixes = ("libgqmm",)
        check_symbols = ("gqmm_get_num_threads", "gqmm_set_num_threads")

        def get_num_threads(self) -> int:
            return int(self.dynlib.gqmm_get_num_threads())

        def set_num_threads(self, num_threads: int) -> int:
            # When a limit ends, threadpoolctl sets the number from before: calls then follow the machine again.
            with contextlib.suppress(ValueError):  # a wrong GQMM_NUM_THREADS, which the first call of an operator reports
                num_threads = 0 if num_threads == available_threads() else num_threads
            return int(self.dynlib.gqmm_set_num_threads(ctypes.c_int(num_threads)))

        def get_version(self) -> str:
            return version()

        def set_additional_attributes(self) -> None:
            pass

    threadpoolctl.register(GqmmController)


class _AtImport(importlib.abc.MetaPathFinder):
    """Finds threadpoolctl as others do, and registers the controller after its import."""

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
