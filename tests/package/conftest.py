"""What is shipped, made once for all tests: the source archive, the wheel built from it, an environment with that alone.

The wheel is for another version of MLX than the one that the other Python tests use, so both versions are tested. Afterwards
`./dev test` runs the tests of gqmm.mlx in the environment that is left in build/package.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
WORK = ROOT / "build" / "package"
MLX_VERSION = "0.32.1"  # the oldest, whose nanobind is the most different one


def run(*command: object, **options: object) -> str:
    """Standard output of a command; its whole output is in the message if it fails."""
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=1500, **options)
    assert result.returncode == 0, f"{command}\n{result.stdout[-8000:]}\n{result.stderr[-8000:]}"
    return result.stdout


@pytest.fixture(scope="session")
def sdist() -> pathlib.Path:
    """The source archive."""
    shutil.rmtree(WORK, ignore_errors=True)
    program = "import sys; sys.path.insert(0, 'python/build_backend'); import gqmm_backend; gqmm_backend.build_sdist(sys.argv[1])"
    run(sys.executable, "-c", program, WORK, cwd=ROOT)
    (archive,) = WORK.glob("gqmm-*.tar.gz")
    return archive


@pytest.fixture(scope="session")
def wheel(sdist) -> pathlib.Path:
    """The wheel, built from the unpacked archive in an environment that pip makes: with what the build hook asks for."""
    run("tar", "-xzf", sdist, "-C", WORK)
    sources = WORK / sdist.name.removesuffix(".tar.gz")
    # The folder of the build lies within the sources as build/python does, so that the compiler's cache knows each file.
    environment = {**os.environ, "GQMM_MLX_VERSION": MLX_VERSION, "CCACHE_BASEDIR": str(sources)}
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-cache-dir"]
    # Warnings are errors, as in the presets, because ccache knows each file by its flags too.
    settings = ["--config-settings", "build-dir=build/python", "--config-settings", "cmake.define.GQMM_WARNINGS_AS_ERRORS=ON"]
    run(*pip, *settings, "--wheel-dir", WORK, sources, env=environment, cwd=WORK)
    (built,) = WORK.glob("gqmm-*.whl")
    return built


def bare_environment(prefix: pathlib.Path) -> dict[str, str]:
    """No compiler, no tool and no library path: the programs of a virtual environment alone."""
    return {"PATH": str(prefix / "bin"), "HOME": str(prefix), "LD_LIBRARY_PATH": "", "LANG": "C.UTF-8"}


@pytest.fixture(scope="session")
def venv(wheel) -> pathlib.Path:
    """A virtual environment into which only the wheel with the extra mlx was installed. Its path has a space."""
    prefix = WORK / "clean venv"
    run("/usr/bin/python3" if pathlib.Path("/usr/bin/python3").exists() else sys.executable, "-m", "venv", prefix)
    pip = [prefix / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run(*pip, f"{wheel}[mlx]", f"mlx[cpu]=={MLX_VERSION}")
    return prefix
