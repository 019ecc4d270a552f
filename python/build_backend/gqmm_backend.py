"""The build backend of scikit-build-core, with requirements for the version of MLX to build for (GQMM_MLX_VERSION)."""

from __future__ import annotations

import mlx_versions
from scikit_build_core import build
from scikit_build_core.build import *  # noqa: F403

_ConfigSettings = dict[str, str | list[str]] | None
_FALSE = {"0", "OFF", "NO", "FALSE", "N", ""}


def _builds_mlx(config_settings: _ConfigSettings) -> bool:
    """Whether gqmm.mlx is built: it is, unless pip got -C cmake.define.GQMM_BUILD_MLX=OFF."""
    value = (config_settings or {}).get("cmake.define.GQMM_BUILD_MLX", "ON")
    return str(value[-1] if isinstance(value, list) else value).upper() not in _FALSE


def _with_extensions(requirements: list[str], config_settings: _ConfigSettings) -> list[str]:
    if not _builds_mlx(config_settings):
        return [*requirements, mlx_versions.nanobind_requirement(mlx_versions.NEWEST)]
    try:
        return [*requirements, *mlx_versions.requirements()]
    except mlx_versions.VersionError as error:
        raise SystemExit(f"error: {error}") from None


def get_requires_for_build_wheel(config_settings: _ConfigSettings = None) -> list[str]:
    """PEP 517's hook: the requirements that pip installs besides build-system.requires."""
    return _with_extensions(build.get_requires_for_build_wheel(config_settings), config_settings)


def get_requires_for_build_editable(config_settings: _ConfigSettings = None) -> list[str]:
    """PEP 660's hook: the same for an editable installation."""
    return _with_extensions(build.get_requires_for_build_editable(config_settings), config_settings)
