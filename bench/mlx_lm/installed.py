"""Finds out whether the packages that this benchmark needs are installed."""

from __future__ import annotations

import importlib.metadata
import platform
import sys

from worker import NotInstalledError, is_missing

NEEDED = {"mlx.core": "mlx[cpu]==0.32.4", "mlx_lm": "mlx-lm==0.32.2"}


def check_installed() -> None:
    packages = [f"'{package}'" for module, package in NEEDED.items() if is_missing(module)]
    if packages:
        raise NotInstalledError(f"{sys.executable} lacks what this benchmark measures; `./dev bench mlx-lm` installs it, as does "
                                f"`{sys.executable} -m pip install {' '.join(packages)}`")  # fmt: skip
    if is_missing("gqmm.mlx"):
        what = "gqmm" if is_missing("gqmm") else "gqmm.mlx, which newer versions of gqmm have"
        pip = f"`{sys.executable} -m pip install .`"
        raise NotInstalledError(f"{sys.executable} lacks {what}; {pip} in gqmm's sources installs it")


def versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in ("mlx", "mlx-lm", "gqmm")}
