"""Processes that work together, such as the ranks of a model: tests start and end them as one."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

SECONDS = 300  # for all ranks; they share the machine's processors
SECONDS_AFTER_A_FAILURE = 20


class Command(NamedTuple):
    arguments: Sequence[str]
    environment: dict[str, str]  # besides that of the test, without what it has of other ranks


class Ended(NamedTuple):
    status: int
    output: str
    errors: str


def without_ranks() -> dict[str, str]:
    """The environment of this process, without what would make a program a rank. MLX's test for OpenMPI adds to it."""
    prefixes = ("MLX_HOSTFILE", "MLX_RANK", "OMPI_", "PMI", "PMIX_")
    return {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}


def free_ports(count: int) -> list[int]:
    """Ports below those that the system gives to outgoing connections, which the ring itself makes while it starts."""
    ports: list[int] = []
    while len(ports) < count:
        port = random.randrange(20000, 32000)
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("127.0.0.1", port))
            ports += [port] if port not in ports else []
    return ports


def ring_environments(folder: Path, addresses: Sequence[str]) -> list[dict[str, str]]:
    """What each rank of mx.distributed's ring must have in its environment. An address is "IP:PORT"."""
    hosts = folder / f"hosts{len(addresses)}.json"
    hosts.write_text(json.dumps([[address] for address in addresses]))
    return [{"MLX_HOSTFILE": str(hosts), "MLX_RANK": str(rank), "GQMM_NUM_THREADS": "1"} for rank in range(len(addresses))]


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and those that it started. One that starts others itself, as mpirun does, gets the time to end them."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
    if process.stdin is not None:
        process.stdin.close()


def run_together(
    folder: Path, commands: Sequence[Command], seconds: float = SECONDS, after_a_failure: float = SECONDS_AFTER_A_FAILURE
) -> list[Ended]:
    """Run the commands at once. When the time is over, or soon after one has failed, all are ended."""
    processes: list[subprocess.Popen[bytes]] = []
    files = [[folder / f"rank{rank}.{name}" for name in ("out", "err")] for rank in range(len(commands))]
    try:
        for command, (output, errors) in zip(commands, files, strict=True):
            with output.open("w") as out, errors.open("w") as err:
                settings = {"env": {**without_ranks(), **command.environment}, "stdout": out, "stderr": err}
                processes.append(subprocess.Popen(command.arguments, stdin=subprocess.PIPE, start_new_session=True, **settings))
        end = time.monotonic() + seconds
        while time.monotonic() < end and any(process.poll() is None for process in processes):
            if any(process.poll() for process in processes):
                end = min(end, time.monotonic() + after_a_failure)
            time.sleep(0.05)
    finally:
        for process in processes:
            _end(process)
    return [
        Ended(process.returncode, *(file.read_text() for file in pair)) for process, pair in zip(processes, files, strict=True)
    ]


def run_ring(folder: Path, arguments: Sequence[Sequence[str]], after_a_failure: float = SECONDS_AFTER_A_FAILURE) -> list[Ended]:
    """Run Python with each of the lists of arguments, as the ranks of mx.distributed's ring on the loopback."""
    environments = ring_environments(folder, [f"127.0.0.1:{port}" for port in free_ports(len(arguments))])
    pairs = zip(arguments, environments, strict=True)
    commands = [Command([sys.executable, *mine], environment) for mine, environment in pairs]
    return run_together(folder, commands, after_a_failure=after_a_failure)


def openmpi() -> dict[str, str]:
    """What OpenMPI must have in its environment. A test is skipped where there is no OpenMPI."""
    if shutil.which("mpirun.openmpi") is None:
        pytest.skip("there is no mpirun.openmpi; apt-get install openmpi-bin libopenmpi-dev")
    return {"GQMM_NUM_THREADS": "1", "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


def outputs_of_openmpi(folder: Path) -> list[str]:
    """What each rank of a run with `--output-filename FOLDER` has printed."""
    return [file.read_text() for file in sorted(folder.glob("*/rank.*/stdout"))]


def assert_all_succeeded(results: Sequence[Ended]) -> None:
    assert [result.status for result in results] == [0] * len(results), "".join(result.errors[-3000:] for result in results)
