"""Load the compiled extension. It fits one version of MLX, and the error for another version says which one."""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import Any


def _built_for() -> str:
    """Return the version of MLX that the extension was built for."""
    try:
        return str(importlib.import_module("gqmm.mlx._mlx_version").MLX_VERSION)
    except ModuleNotFoundError as error:
        raise ImportError(
            "this build of gqmm has no gqmm.mlx, because GQMM_BUILD_MLX was off: install gqmm again without that setting"
        ) from error


def _supported() -> str:
    """Return the versions of MLX that gqmm.mlx can be built for, as the extra gqmm[mlx] has them: ">=0.32.1,<=0.32.4"."""
    for requirement in importlib.metadata.requires("gqmm") or []:
        name, _, _ = requirement.partition(";")
        if name.startswith("mlx[cpu]"):
            return name.removeprefix("mlx[cpu]").strip()
    raise RuntimeError("the metadata of gqmm name no version of MLX")


def _rebuild(installed: str) -> str:
    """Say how to get a gqmm.mlx for the MLX that is installed, or why that is not possible."""

    def numbers(version: str) -> list[int]:
        return [int(part) if part.isdigit() else -1 for part in version.strip("<>= ").split(".")]

    newest, oldest = sorted(_supported().split(","))  # "<=" comes before ">="
    if numbers(oldest) <= numbers(installed) <= numbers(newest):
        # --no-cache-dir is needed: without it pip takes the wheel that it built last.
        return (
            f"; or build gqmm for MLX {installed}: GQMM_MLX_VERSION={installed} pip install --no-cache-dir --force-reinstall "
            "--no-deps SOURCES, where SOURCES is gqmm's folder or .tar.gz"
        )
    return f" (gqmm.mlx can be built for MLX {_supported()} alone)"


def _load() -> Any:
    wanted = _built_for()
    remedy = f'pip install "mlx[cpu]=={wanted}"'
    try:
        installed = importlib.metadata.version("mlx")
    except importlib.metadata.PackageNotFoundError as error:
        raise ImportError(f"gqmm.mlx needs MLX {wanted}, and MLX is not installed: {remedy}") from error
    if installed != wanted:
        raise ImportError(f"gqmm.mlx was made for MLX {wanted}, and MLX {installed} is installed: {remedy}{_rebuild(installed)}")
    try:
        core = importlib.import_module("mlx.core")
    except ImportError as error:
        raise ImportError(f"gqmm.mlx needs MLX {wanted} with its CPU library, and mlx.core fails ({error}): {remedy}") from error
    try:
        module = importlib.import_module("gqmm.mlx._mlx")
    except ImportError as error:
        raise ImportError(
            f"gqmm.mlx was made for MLX {wanted}, and its extension cannot be loaded ({error}): "
            f"install gqmm again where MLX {wanted} is installed"
        ) from error
    try:
        module.accepts(core.array(0.0))
    except TypeError as error:
        raise ImportError(
            f"gqmm.mlx does not understand the arrays of this build of MLX {installed}: its Python bindings have another ABI "
            f"(nanobind's) than those of the wheel on PyPI. Install that: {remedy}"
        ) from error
    return module


extension = _load()
