"""gqmm.mpi and gqmm.torch_dist: real processes on the loopback have the bits of one, and never wait for ever."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from expert_ranks import DTYPES, E, H, K, owners_of, problem, tokens_of
from gqmm.dispatch import DispatchPlan
from hosts import hosts
from rank_processes import Command, Ended, free_ports, run_together

PROGRAM = Path(__file__).with_name("expert_ranks.py")
TIMEOUT = 3  # of an engine, where a test waits for it
BITS_PER_SECOND = 4_000_000


def least_bytes_sent(rank: int) -> int:
    """How many bytes of rows and of results one of two ranks sends at least, if both compute what expert_ranks.py checks."""
    total = 0
    other = 1 - rank
    for dtype, tokens in ((dtype, tokens) for dtype in DTYPES for tokens in tokens_of(rank)):
        plan = DispatchPlan(problem(rank, tokens, dtype)[1], owners_of(2), rank, 2, E)
        total += int(plan.send_counts[other]) * (H * np.dtype(dtype).itemsize + K * 4)
    for dtype, tokens in ((dtype, tokens) for dtype in DTYPES for tokens in tokens_of(other)):
        plan = DispatchPlan(problem(other, tokens, dtype)[1], owners_of(2), other, 2, E)
        total += int(plan.recv_counts[rank]) * H * np.dtype(dtype).itemsize
    return total


def run_mpi(launcher: list[str], environment: dict[str, str], ranks: int, scenario: str, folder: Path) -> Ended:
    command = [*launcher, "-n", str(ranks), sys.executable, str(PROGRAM), "mpi", scenario, str(TIMEOUT)]
    return run_together(folder, [Command(command, {"GQMM_NUM_THREADS": "1", **environment})])[0]


def mpich() -> str:
    """The path of MPICH's program that starts ranks."""
    launcher = Path(sys.executable).with_name("mpiexec.hydra")
    if importlib.util.find_spec("mpi4py") is None or not launcher.exists():
        pytest.skip("mpi4py and mpich are not here: pip install mpi4py mpich")
    return str(launcher)


def run_mpich(ranks: int, scenario: str, folder: Path) -> Ended:
    return run_mpi([mpich()], {}, ranks, scenario, folder)


def run_openmpi(ranks: int, scenario: str, folder: Path) -> Ended:
    launcher = shutil.which("mpirun.openmpi")
    if importlib.util.find_spec("mpi4py") is None or launcher is None:
        pytest.skip("mpi4py or OpenMPI is not here: pip install mpi4py, apt install openmpi-bin")
    as_root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    options = ["--oversubscribe", "--bind-to", "none", "--mca", "mpi_yield_when_idle", "1"]
    return run_mpi([launcher, *options], {"MPI4PY_MPIABI": "openmpi", **as_root}, ranks, scenario, folder)


def run_gloo(ranks: int, scenario: str, folder: Path) -> Ended:
    pytest.importorskip("torch", reason="PyTorch is not here: ./dev test all installs it")
    arguments = [sys.executable, str(PROGRAM), "gloo", scenario, str(TIMEOUT)]
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_ports(1)[0]), "WORLD_SIZE": str(ranks)}
    threads = {"GQMM_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    commands = [Command(arguments, {**group, **threads, "RANK": str(rank)}) for rank in range(ranks)]
    results = run_together(folder, commands)
    others = [result for rank, result in enumerate(results) if rank != 1 or scenario not in LOST]
    status = min(abs(result.status) for result in others) if scenario in LOST else max(abs(result.status) for result in others)
    return Ended(status, "".join(result.output for result in results), "".join(result.errors for result in results))


LOST = ("stops", "dies")
ENGINES = {"mpich": run_mpich, "openmpi": run_openmpi, "gloo": run_gloo}
engines = pytest.mark.parametrize("run", ENGINES.values(), ids=ENGINES)


@engines
@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_have_the_bits_of_one(run, ranks, tmp_path):
    result = run(ranks, "bits", tmp_path)
    assert result.status == 0, result.errors[-3000:]
    lines = re.findall(r"rank \d of \d is right", result.output)  # mpiexec may put two of them into one line
    assert sorted(lines) == [f"rank {rank} of {ranks} is right" for rank in range(ranks)]


@engines
def test_other_owner_maps_are_named_on_all_ranks(run, tmp_path):
    result = run(2, "other owners", tmp_path)
    assert result.output.count("[ExpertLayer] rank 1 has another owner map than rank 0") == 2, result.errors[-3000:]


@engines
def test_a_wrong_id_is_an_error_on_all_ranks_which_go_on(run, tmp_path):
    result = run(3, "wrong id", tmp_path)
    assert result.status == 0, result.errors[-3000:]
    assert "rank 1: [DispatchPlan] topk_ids[0, 0] = 12 is out of range: there are 12 experts" in result.output
    assert result.output.count("[ExpertLayer] rank 1 refused its arguments; its own error says why") == 2
    assert result.output.count("is right") == 3


@engines
@pytest.mark.parametrize("scenario", LOST)
def test_a_rank_that_is_lost_ends_the_others_and_is_named(run, scenario, tmp_path):
    result = run(3, scenario, tmp_path)
    assert result.status != 0
    if scenario == "stops" or run is run_gloo:
        assert re.search(r"Engine\] rank [02] .* rank 1: it ended or stalled", result.errors)


def test_rows_and_results_cross_the_network_between_hosts(tmp_path):
    launcher = mpich()
    with hosts(2, BITS_PER_SECOND) as network:
        remote = ["-launcher", "rsh", "-launcher-exec", str(network.remote_shell()), "-hosts", ",".join(network.addresses)]
        command = [launcher, *remote, "-n", "2", sys.executable, str(PROGRAM), "mpi", "bits", "60"]
        start = time.monotonic()
        (result,) = run_together(tmp_path, [Command(network.command(0, command), {"GQMM_NUM_THREADS": "1"})])
        seconds = time.monotonic() - start
        assert result.status == 0, result.errors[-3000:]
        assert len(re.findall("is right", result.output)) == 2
        for rank in range(2):
            least = least_bytes_sent(rank)
            assert network.bytes_sent(rank) >= least
            assert seconds >= network.least_seconds(least)
