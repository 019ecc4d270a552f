"""Answers the requests of `gqmm bench scale`, on all ranks."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Iterator
from typing import Any

from worker import NotInstalledError, answer_requests

from .installed import check_installed, communicator, mpiexec, versions

SECONDS_BETWEEN_LOOKS = 0.005  # of a rank that waits for a request; waiting by MPI would take a core from the ranks that measure


class Rank:
    """What one rank measures. NumPy and gqmm are imported here, because they may be missing."""

    def __init__(self, world: Any) -> None:
        self.world = world
        self.bench: Any = None

    def to(self, request: dict[str, Any]) -> dict[str, Any]:
        from .layer import LayerBench, Settings

        if "layer" in request:
            self.bench = None  # gives back its memory before the next layer needs it
            self.bench = LayerBench(self.world, Settings(**request["layer"]))
            return {"copies": len(self.bench.layers)}
        if "tokens" in request:
            self.bench.set_up(request["tokens"])
            return {}
        return self.bench.turn(request["turn"])


@contextlib.contextmanager
def ending_all_ranks(world: Any) -> Iterator[None]:
    """End all ranks if this one fails. The others would wait for it."""
    try:
        yield
    except Exception:
        traceback.print_exc()
        world.Abort(1)


class Leader:
    """Rank 0, which gets the requests."""

    def __init__(self, world: Any) -> None:
        self.world = world
        self.rank = Rank(world)

    def to(self, request: dict[str, Any]) -> dict[str, Any]:
        check_installed()
        if "installed" in request:
            return {"versions": versions(), "mpiexec": mpiexec()}
        if "layer" in request and request["layer"]["ranks"] != self.world.size:
            raise RuntimeError(
                f"{mpiexec()} started {request['layer']['ranks']} ranks, and mpi4py sees {self.world.size}; it must belong to "
                f"the MPI library that mpi4py uses, which is {versions()['mpi']}"
            )
        self.send_others(request)
        with ending_all_ranks(self.world):
            return self.rank.to(request)

    def send_others(self, request: dict[str, Any] | None) -> None:
        for other in range(1, self.world.size):
            self.world.send(request, dest=other)


def lead(world: Any) -> None:
    leader = Leader(world)
    answer_requests(leader.to)
    leader.send_others(None)


def follow(world: Any) -> None:
    rank = Rank(world)
    while True:
        while not world.iprobe(source=0):
            time.sleep(SECONDS_BETWEEN_LOOKS)
        request = world.recv(source=0)
        if request is None:
            return
        with ending_all_ranks(world):
            rank.to(request)


def main() -> None:
    try:
        world = communicator()
    except NotInstalledError:
        answer_requests(lambda _: check_installed() or {})  # the error is the answer
        return
    if world.rank == 0:
        lead(world)
    else:
        follow(world)
