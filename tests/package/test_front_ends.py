"""Front ends stand on public headers: the extension for MLX compiles and links against an installed library."""

from __future__ import annotations

import shutil
import sys

import pytest
from conftest import ROOT, WORK, run


@pytest.fixture(scope="session")
def prefix():
    """Where the library and its public headers are installed, and nothing else of the sources is."""
    # Beside build/release and with its flags: the compiler's cache then knows each file. It takes paths relative to the build.
    build, installed = ROOT / "build" / "package-library", WORK / "installed"
    shutil.rmtree(installed, ignore_errors=True)
    options = ["-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=ON", "-DGQMM_BUILD_TESTS=OFF", "-DGQMM_BUILD_CLI=OFF"]
    options += ["-DGQMM_WARNINGS_AS_ERRORS=ON", "-DGQMM_INSTRUCTION_SETS=avx2"]
    run("cmake", "-S", ROOT, "-B", build, "-G", "Ninja", *options)
    run("cmake", "--build", build)
    run("cmake", "--install", build, "--prefix", installed, "--component", "development")
    return installed


def test_the_extension_for_mlx_builds_against_installed_headers(prefix):
    build = WORK / "mlx_extension"
    shutil.rmtree(build, ignore_errors=True)
    roots = [
        f"-D{name}={run(sys.executable, '-m', module, option).strip()}"
        for name, module, option in (("nanobind_ROOT", "nanobind", "--cmake_dir"), ("MLX_ROOT", "mlx", "--cmake-dir"))
    ]
    run(
        *("cmake", "-S", ROOT / "tests/install/mlx_extension", "-B", build, "-G", "Ninja"),
        *(f"-DSOURCE={ROOT}", f"-DCMAKE_PREFIX_PATH={prefix}", f"-DPython_EXECUTABLE={sys.executable}", *roots),
        # No time for optimizing: nothing is run. The linker looks for every name in the libraries.
        *("-DCMAKE_CXX_FLAGS=-O0 -Wno-deprecated-declarations", "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON"),
    )
    run("cmake", "--build", build, "--target", "_mlx")
    commands = (build / "compile_commands.json").read_text()
    assert str(prefix / "include") in commands
    assert f"-I{ROOT}/src" not in commands
    assert f"-I{ROOT}/include" not in commands
    assert list(build.glob("mlx/_mlx*.so"))
