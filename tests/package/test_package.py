"""The source archive, the wheel that is built from it, and what a user has who installs that wheel and nothing else."""

from __future__ import annotations

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tarfile
import time
import tomllib
import zipfile

import pytest
from conftest import MLX_VERSION, ROOT, WORK, bare_environment, run

SYSTEM_LIBRARIES = {"libstdc++.so.6", "libgcc_s.so.1", "libm.so.6", "libc.so.6", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}


def test_the_source_archive_is_a_python_project_with_all_that_its_build_reads(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tracked = set(run("git", "ls-files", cwd=ROOT).splitlines()) if (ROOT / ".git").exists() else set()
    assert {"pyproject.toml", "PKG-INFO", "CMakeLists.txt", "LICENSE", "README.md"} <= names
    for folder in ("cmake", "cli", "include", "python", "src", "tools", "examples/cpp"):
        assert {name for name in tracked if name.startswith(folder + "/")} <= names, folder
    assert {name for name in tracked if name.startswith("bench/") and not name.startswith("bench/results/")} <= names
    assert not [name for name in names if name.startswith(("tests/", "models/", "bench/results/", "build/", "docs/"))]


@pytest.fixture(scope="session")
def unpacked(wheel):
    """The wheel's files."""
    folder = WORK / "wheel"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def machine_code(unpacked) -> dict[str, pathlib.Path]:
    """The ELF files of the wheel, by the names without what depends on Python's version."""
    files = [file for file in unpacked.rglob("*") if file.is_file() and file.read_bytes()[:4] == b"\x7fELF"]
    return {str(file.relative_to(unpacked)).replace(file.name, file.name.partition(".")[0]): file for file in files}


def dynamic_section(file) -> dict[str, list[str]]:
    """{"NEEDED": […], "RPATH": […], …} of an ELF file."""
    entries: dict[str, list[str]] = {}
    for kind, value in re.findall(r"\((\w+)\)[^\[\n]*\[(.*)\]", run("readelf", "-dW", file)):
        entries.setdefault(kind, []).append(value)
    return entries


def test_the_wheel_has_one_copy_of_the_kernels(wheel, unpacked):
    files = machine_code(unpacked)
    assert set(files) == {"gqmm/libgqmm", "gqmm/_gqmm", "gqmm/mlx/_mlx", "gqmm/bin/gqmm"}
    for name in sorted(set(files) - {"gqmm/libgqmm"}):
        assert "libgqmm.so" in dynamic_section(files[name])["NEEDED"], name
        assert files[name].stat().st_size < files["gqmm/libgqmm"].stat().st_size / 3, name
    assert wheel.stat().st_size < 5_000_000


def test_the_wheel_needs_the_systems_c_and_cxx_libraries_alone(unpacked):
    for name, file in machine_code(unpacked).items():
        needed = set(dynamic_section(file)["NEEDED"]) - SYSTEM_LIBRARIES - {"libgqmm.so"}
        assert needed == ({"libmlx.so"} if name == "gqmm/mlx/_mlx" else set()), name


def test_no_file_of_the_wheel_looks_for_libraries_outside_of_the_package(unpacked):
    for name, file in machine_code(unpacked).items():
        entries = dynamic_section(file)
        assert "RUNPATH" not in entries, f"{name}: LD_LIBRARY_PATH would come before it"
        for path in ":".join(entries.get("RPATH", [])).split(":"):
            assert not path or path.startswith("$ORIGIN"), (name, path)


def test_the_library_shows_public_names_and_those_that_the_wheels_front_ends_take(unpacked):
    """Neither fmt and nlohmann/json, of which a process may have others, nor kernels, which only the table leads to."""
    files = machine_code(unpacked)
    library = files.pop("gqmm/libgqmm")
    run(sys.executable, ROOT / "tests" / "install" / "exported_names.py", library, *files.values())


@pytest.mark.parametrize("name", ["gqmm/_gqmm", "gqmm/mlx/_mlx"])
def test_an_extension_shows_its_entry_alone(unpacked, name):
    symbols = run("nm", "--dynamic", "--defined-only", machine_code(unpacked)[name])
    assert [line.split()[2] for line in symbols.splitlines()] == ["PyInit_" + name.rpartition("/")[2]]


def test_auditwheel_names_a_manylinux_tag_and_finds_nothing_to_bundle(wheel):
    """libmlx.so is in MLX's own wheel, so it is excluded."""
    report = json.loads(run(sys.executable, "-m", "auditwheel", "show", "--json", wheel))
    assert report["sym_tag"].startswith("manylinux_2_"), report
    assert set(report["external_libs"]) <= {"libmlx.so"}, report
    patchelf = {**os.environ, "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"}
    repaired_folder = WORK / "repaired"
    run(sys.executable, "-m", "auditwheel", "repair", "--exclude", "libmlx.so", "-w", repaired_folder, wheel, env=patchelf)
    (repaired,) = repaired_folder.glob("gqmm-*manylinux_2_*.whl")
    with zipfile.ZipFile(wheel) as before, zipfile.ZipFile(repaired) as after:

        def files(archive: zipfile.ZipFile) -> set[str]:
            return {name for name in archive.namelist() if ".dist-info" not in name and not name.endswith("/")}

        assert files(after) == files(before)


def test_the_extra_is_the_versions_that_the_build_hook_knows(wheel):
    sys.path.insert(0, str(ROOT / "python" / "build_backend"))
    import mlx_versions

    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["mlx"]
    assert extra == [f"mlx[cpu]>={mlx_versions.OLDEST},<={mlx_versions.NEWEST}"]


def outcome(venv, *command: object) -> subprocess.CompletedProcess[str]:
    """A program of the virtual environment, run in the bare environment."""
    program = [venv / "bin" / str(command[0]), *command[1:]]
    return subprocess.run(program, env=bare_environment(venv), capture_output=True, text=True, timeout=120)


def python(venv, program: str) -> subprocess.CompletedProcess[str]:
    return outcome(venv, "python", "-I", "-c", program)


PRODUCT = """
import numpy as np
import {package} as gqmm
w = np.arange(2 * 64 * 64, dtype=np.float32).reshape(2, 64, 64) % 15
x = np.ones((3, 1, 64), np.float32)
{product}
"""


def test_the_operators_run_where_there_is_no_compiler(venv):
    product = """
q = gqmm.quantize(w)
y = gqmm.gather_qmm(x, q[0], q[1], q[2], rhs_indices=np.array([0, 1, 1], np.uint32))
expected = np.stack([x[i] @ gqmm.dequantize(q[0], q[1], q[2])[e].T for i, e in enumerate([0, 1, 1])])
print(np.abs(np.asarray(y) - expected).max() < 1e-3 * np.abs(expected).max())"""
    result = python(venv, PRODUCT.format(package="gqmm", product=product))
    assert result.stdout == "True\n", result.stderr


def test_gqmm_mlx_runs_with_the_version_that_it_was_built_for(venv):
    product = """
import mlx.core as mx
q = mx.quantize(mx.array(w))
y = gqmm.gather_qmm(mx.array(x), *q, rhs_indices=mx.array([0, 1, 1]))
print(mx.__version__, bool(mx.allclose(y, mx.gather_qmm(mx.array(x), *q, rhs_indices=mx.array([0, 1, 1])), rtol=1e-3)))"""
    result = python(venv, PRODUCT.format(package="gqmm.mlx", product=product))
    assert result.stdout == f"{MLX_VERSION} True\n", result.stderr


@pytest.mark.parametrize("installed", ["0.32.2", "0.32.0", "0.33.0.dev1"])
def test_another_version_of_mlx_is_named_with_the_command_that_mends_it(venv, installed):
    program = f"""
import importlib.metadata
version = importlib.metadata.version
importlib.metadata.version = lambda name: {installed!r} if name == "mlx" else version(name)
import gqmm.mlx"""
    result = python(venv, program)
    message = result.stderr.splitlines()[-1]
    assert f"made for MLX {MLX_VERSION}, and MLX {installed} is installed" in message
    assert f'pip install "mlx[cpu]=={MLX_VERSION}"' in message
    assert (f"GQMM_MLX_VERSION={installed} pip install" in message) == (installed == "0.32.2")


COMMANDS = pytest.mark.parametrize("command", [["gqmm"], ["python", "-m", "gqmm"]], ids=["gqmm", "python -m gqmm"])


@COMMANDS
def test_the_program_runs(venv, command):
    result = outcome(venv, *command, "info", "--format", "json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)


@COMMANDS
def test_the_programs_exit_status_and_arguments_are_its_own(venv, command, tmp_path):
    missing = tmp_path / "no such model, ü"
    result = outcome(venv, *command, "inspect", missing)
    assert result.returncode == 2
    assert "no such model" in result.stderr


@COMMANDS
def test_the_program_ends_by_signals_also_by_those_that_python_ignores(venv, command, tmp_path):
    """Python ignores SIGPIPE and SIGXFSZ, and a program inherits that: `gqmm inspect … | head` would go on."""
    program = (venv / "bin" / command[0], *command[1:], "bench")

    # A shell that runs the tests in the background ignores SIGINT, and its children inherit that.
    def heed_interrupts() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(
        program,
        env=bare_environment(venv),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        preexec_fn=heed_interrupts,
    ) as process:
        proc = pathlib.Path(f"/proc/{process.pid}")
        deadline = time.monotonic() + 60
        while (proc / "exe").resolve().name != "gqmm":
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.01)
        (ignored,) = re.findall(r"^SigIgn:\s*(\w+)", (proc / "status").read_text(), re.MULTILINE)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == -signal.SIGTERM
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
        assert not int(ignored, 16) >> (number - 1) & 1, number


def test_uninstalling_leaves_nothing(venv, wheel):
    site = WORK / "second venv"
    run(sys.executable, "-m", "venv", site)
    before = {path for path in site.rglob("*") if "__pycache__" not in path.parts}
    pip = [site / "bin" / "python", "-m", "pip", "--disable-pip-version-check"]
    run(*pip, "install", "--no-deps", "--quiet", wheel)
    assert (site / "bin" / "gqmm").exists()
    run(*pip, "uninstall", "--yes", "--quiet", "gqmm")
    assert {path for path in site.rglob("*") if "__pycache__" not in path.parts} == before
