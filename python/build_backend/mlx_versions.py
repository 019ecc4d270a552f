"""The versions of MLX that gqmm.mlx can be built for, and the nanobind that each of them needs.

MLX's C++ interface changes with every release, so one build of gqmm.mlx fits one version of MLX. It must also be built with a
nanobind of the same ABI as the one in MLX's wheel, because both share MLX's Python types.

    python mlx_versions.py requirements     prints what pip must install to build for GQMM_MLX_VERSION, or for the newest MLX
    python mlx_versions.py check            fails unless the installed MLX and nanobind fit each other
"""

from __future__ import annotations

import importlib.metadata
import os
import sys

# For each version of MLX the first nanobind that fits it, and the first that does not fit any more. These wheels have versions
# 20, 21, 22 and 22 of nanobind's ABI. The capsule's name in mlx/core.*.so shows the version.
NANOBIND_OF_MLX = {
    "0.32.1": ("2.13", "2.15"),
    "0.32.2": ("2.15", "2.16"),
    "0.32.3": ("3.0", "3.2"),
    "0.32.4": ("3.0", "3.2"),
}
OLDEST, NEWEST = min(NANOBIND_OF_MLX), max(NANOBIND_OF_MLX)
VARIABLE = "GQMM_MLX_VERSION"


class VersionError(Exception):
    """An error for versions that do not fit each other. The message says which ones would fit."""


def unsupported(found: str) -> VersionError:
    """Make the error for a version of MLX that gqmm.mlx cannot be built for. `found` says where the version comes from."""
    return VersionError(
        f"{found}, but gqmm.mlx can be built for MLX {', '.join(NANOBIND_OF_MLX)} alone "
        "(0.32.0 and earlier end the process when an evaluation fails)"
    )


def wanted() -> str:
    """Return the version of MLX to build for: GQMM_MLX_VERSION, or the newest."""
    version = os.environ.get(VARIABLE, "").strip() or NEWEST
    if version not in NANOBIND_OF_MLX:
        raise unsupported(f"{VARIABLE} is {version!r}")
    return version


def requirements() -> list[str]:
    """List what pip must install to build gqmm with gqmm.mlx, besides the requirements in pyproject.toml."""
    version = wanted()
    return [f"mlx[cpu]=={version}", nanobind_requirement(version)]


def nanobind_requirement(mlx_version: str) -> str:
    """Return the requirement on nanobind for a version of MLX."""
    first, too_new = NANOBIND_OF_MLX[mlx_version]
    return f"nanobind>={first},<{too_new}"


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")[:2]]


def check_installed() -> str | None:
    """Raise VersionError unless the installed MLX and nanobind fit each other.

    A build without isolation takes the installed MLX. The function returns a warning if GQMM_MLX_VERSION asks for another one.
    """
    mlx, nanobind = importlib.metadata.version("mlx"), importlib.metadata.version("nanobind")
    if mlx not in NANOBIND_OF_MLX:
        raise unsupported(f"MLX {mlx} is installed")
    first, too_new = NANOBIND_OF_MLX[mlx]
    if not _numbers(first) <= _numbers(nanobind) < _numbers(too_new):
        raise VersionError(
            f"nanobind {nanobind} is installed, whose ABI is not that of MLX {mlx}: pip install '{nanobind_requirement(mlx)}'"
        )
    asked = os.environ.get(VARIABLE, "").strip()
    if asked and asked != mlx:
        return (
            f"{VARIABLE} is {asked!r}, but MLX {mlx} is installed, and a build without isolation takes that. For the other one "
            f"build with isolation, or first: pip install 'mlx[cpu]=={asked}'"
        )
    return None


def main(arguments: list[str]) -> int:
    """Run the command that the module's documentation describes, and return the exit status."""
    try:
        if arguments == ["requirements"]:
            print(*requirements(), sep="\n")
        elif arguments == ["check"]:
            print(check_installed() or "")
        else:
            print(__doc__, file=sys.stderr)
            return 2
    except VersionError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
