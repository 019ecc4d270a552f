"""gqmm.mpi and gqmm.torch_dist: real processes on the loopback have the bits of one, and never wait for ever."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("expert_ranks.py")
SECONDS = 120  # for all ranks; they share the machine's processors
TIMEOUT = 3  # of an engine, where a test waits for it


@dataclass(frozen=True)
class Result:
    status: int
    output: str
    errors: str


def one_thread(**variables: str) -> dict[str, str]:
    return {**os.environ, "GQMM_NUM_THREADS": "1", **variables}


def run_together(commands: list[tuple[list[str], dict[str, str]]]) -> list[Result]:
    """Run processes until all have ended but those that stopped themselves, or the time is over."""
    with tempfile.TemporaryDirectory() as folder:
        files = [[Path(folder, f"{i}.{name}") for name in ("out", "err")] for i in range(len(commands))]
        processes = []
        for (command, environment), (out, err) in zip(commands, files, strict=True):
            with out.open("w") as output, err.open("w") as errors:
                processes.append(subprocess.Popen(command, env=environment, stdout=output, stderr=errors, start_new_session=True))
        end = time.monotonic() + SECONDS
        while time.monotonic() < end and any(process.poll() is None and not is_stopped(process.pid) for process in processes):
            time.sleep(0.05)
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        return [
            Result(process.wait(), out.read_text(), err.read_text()) for process, (out, err) in zip(processes, files, strict=True)
        ]


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def run_mpi(launcher: list[str], environment: dict[str, str], ranks: int, scenario: str) -> Result:
    command = [*launcher, "-n", str(ranks), sys.executable, str(PROGRAM), "mpi", scenario, str(TIMEOUT)]
    return run_together([(command, one_thread(**environment))])[0]


def run_mpich(ranks: int, scenario: str) -> Result:
    launcher = Path(sys.executable).with_name("mpiexec.hydra")
    if importlib.util.find_spec("mpi4py") is None or not launcher.exists():
        pytest.skip("mpi4py and mpich are not here: pip install mpi4py mpich")
    return run_mpi([str(launcher)], {}, ranks, scenario)


def run_openmpi(ranks: int, scenario: str) -> Result:
    launcher = shutil.which("mpirun.openmpi")
    if importlib.util.find_spec("mpi4py") is None or launcher is None:
        pytest.skip("mpi4py or OpenMPI is not here: pip install mpi4py, apt install openmpi-bin")
    as_root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    options = ["--oversubscribe", "--bind-to", "none", "--mca", "mpi_yield_when_idle", "1"]
    return run_mpi([launcher, *options], {"MPI4PY_MPIABI": "openmpi", **as_root}, ranks, scenario)


def run_gloo(ranks: int, scenario: str) -> Result:
    pytest.importorskip("torch", reason="PyTorch is not here: ./dev test all installs it")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = one_thread(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE=str(ranks), OMP_NUM_THREADS="1")
    command = [sys.executable, str(PROGRAM), "gloo", scenario, str(TIMEOUT)]
    results = run_together([(command, {**environment, "RANK": str(rank)}) for rank in range(ranks)])
    statuses = [result.status for rank, result in enumerate(results) if rank != 1 or scenario not in ("stops", "dies")]
    return Result(
        min(map(abs, statuses)) if scenario in ("stops", "dies") else max(map(abs, statuses)),
        "".join(result.output for result in results),
        "".join(result.errors for result in results),
    )


ENGINES = {"mpich": run_mpich, "openmpi": run_openmpi, "gloo": run_gloo}
engines = pytest.mark.parametrize("run", ENGINES.values(), ids=ENGINES)


@engines
@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_have_the_bits_of_one(run, ranks):
    result = run(ranks, "bits")
    assert result.status == 0, result.errors[-3000:]
    assert sorted(result.output.splitlines()) == [f"rank {rank} of {ranks} is right" for rank in range(ranks)]


@engines
def test_other_owner_maps_are_named_on_all_ranks(run):
    result = run(2, "other owners")
    assert result.status != 0
    assert result.errors.count("ValueError: [ExpertLayer] rank 1 has another owner map than rank 0") == 2


@engines
def test_a_wrong_id_is_an_error_on_all_ranks_which_go_on(run):
    result = run(3, "wrong id")
    assert result.status == 0, result.errors[-3000:]
    assert "rank 1: [DispatchPlan] topk_ids[0, 0] = 12 is out of range: there are 12 experts" in result.output
    assert result.output.count("[ExpertLayer] rank 1 refused its arguments; its own error says why") == 2
    assert result.output.count("is right") == 3


@engines
@pytest.mark.parametrize("scenario", ["stops", "dies"])
def test_a_rank_that_is_lost_ends_the_others_and_is_named(run, scenario):
    start = time.monotonic()
    result = run(3, scenario)
    assert time.monotonic() - start < SECONDS / 2
    assert result.status != 0
    if scenario == "stops" or run is run_gloo:
        assert re.search(r"Engine\] rank [02] .* rank 1: ended, or does not answer", result.errors)
