"""The compiled extension, which fits one version of MLX: loaded with an error that says which if it is another."""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import Any


def _wanted_version() -> str:
    """The version of MLX that the extra gqmm[mlx] asks for."""
    for requirement in importlib.metadata.requires("gqmm") or []:
        name, _, rest = requirement.partition("==")
        if name.split("[")[0].strip() == "mlx":
            return rest.partition(";")[0].strip()
    raise RuntimeError("the metadata of gqmm name no version of MLX")


def _load() -> Any:
    wanted = _wanted_version()
    remedy = f'pip install "mlx[cpu]=={wanted}" (or pip install "gqmm[mlx]")'
    try:
        installed = importlib.metadata.version("mlx")
        core = importlib.import_module("mlx.core")
    except (importlib.metadata.PackageNotFoundError, ModuleNotFoundError) as error:
        raise ImportError(f"gqmm.mlx needs MLX {wanted}, and MLX is not installed: {remedy}") from error
    if installed != wanted:
        raise ImportError(f"gqmm.mlx was built for MLX {wanted}, and MLX {installed} is installed: {remedy}")
    try:
        module = importlib.import_module("gqmm.mlx._mlx")
    except ModuleNotFoundError as error:
        raise ImportError(
            f"this build of gqmm is without gqmm.mlx, because MLX {wanted} was not there to build it with: {remedy}, "
            "then install gqmm again with pip install --no-binary gqmm --force-reinstall gqmm"
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
