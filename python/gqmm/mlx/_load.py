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
    remedy = f'pip install "mlx[cpu]=={wanted}"'
    try:
        installed = importlib.metadata.version("mlx")
    except importlib.metadata.PackageNotFoundError as error:
        raise ImportError(f"gqmm.mlx needs MLX {wanted}, and MLX is not installed: {remedy}") from error
    if installed != wanted:
        raise ImportError(f"gqmm.mlx was made for MLX {wanted}, and MLX {installed} is installed: {remedy}")
    try:
        core = importlib.import_module("mlx.core")
    except ImportError as error:
        raise ImportError(f"gqmm.mlx needs MLX {wanted} with its CPU library, and mlx.core fails ({error}): {remedy}") from error
    try:
        module = importlib.import_module("gqmm.mlx._mlx")
    except ImportError as error:
        raise ImportError(
            f"this build of gqmm has no gqmm.mlx for MLX {wanted} ({error}): install gqmm again where MLX {wanted} is installed"
        ) from error
    if module.built_with != wanted:
        raise ImportError(f"gqmm.mlx was built with MLX {module.built_with}: install gqmm again where MLX {wanted} is installed")
    try:
        module.accepts(core.array(0.0))
    except TypeError as error:
        raise ImportError(
            f"gqmm.mlx does not understand the arrays of this build of MLX {installed}: its Python bindings have another ABI "
            f"(nanobind's) than those of the wheel on PyPI. Install that: {remedy}"
        ) from error
    return module


extension = _load()
