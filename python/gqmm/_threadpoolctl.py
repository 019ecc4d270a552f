"""Lets threadpoolctl limit the threads of gqmm, as it limits those of BLAS and OpenMP libraries."""

from __future__ import annotations

import ctypes
import importlib
from typing import Any

from gqmm._gqmm import available_threads, version


def register() -> None:
    """Registers a controller with user API "gqmm" if threadpoolctl is installed; it is no dependency."""
    try:
        threadpoolctl: Any = importlib.import_module("threadpoolctl")
    except ImportError:
        return
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
            granted = 0 if num_threads == available_threads() else num_threads
            return int(self.dynlib.gqmm_set_num_threads(ctypes.c_int(granted)))

        def get_version(self) -> str:
            return version()

        def set_additional_attributes(self) -> None:
            pass

    threadpoolctl.register(GqmmController)
