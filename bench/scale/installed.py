"""Finds out whether what this benchmark needs is installed."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

from worker import NotInstalledError, is_missing

REMEDY = f"`{sys.executable} -m pip install mpi4py mpich` installs it, without root"


def communicator() -> Any:
    """Return MPI's communicator of all ranks. Raises NotInstalledError without mpi4py or without an MPI library."""
    if is_missing("mpi4py"):
        raise NotInstalledError(f"{sys.executable} lacks mpi4py, by which ranks exchange messages; {REMEDY}")
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise NotInstalledError(f"mpi4py finds no MPI library ({str(error).splitlines()[0]}); {REMEDY}") from error
    return MPI.COMM_WORLD


def mpiexec() -> str:
    """Return the path of mpiexec: that beside Python, which pip installed, or that of the system."""
    beside = Path(sys.executable).with_name("mpiexec")
    path = str(beside) if beside.exists() else shutil.which("mpiexec")
    if path is None:
        raise NotInstalledError(f"there is no mpiexec beside {sys.executable} or on PATH, which starts the ranks; {REMEDY}")
    return path


def check_installed() -> None:
    communicator()
    mpiexec()
    if is_missing("gqmm.mpi"):
        what = "gqmm" if is_missing("gqmm") else "gqmm.mpi, which newer versions of gqmm have"
        raise NotInstalledError(
            f"{sys.executable} lacks {what}; `{sys.executable} -m pip install .` in gqmm's sources installs it"
        )


def versions() -> dict[str, str]:
    from mpi4py import MPI

    library = " ".join(MPI.Get_library_version().splitlines()[0].replace("Version:", "").split())
    packages = {name: importlib.metadata.version(name) for name in ("gqmm", "mpi4py", "numpy")}
    return {"python": platform.python_version(), "mpi": library} | packages
