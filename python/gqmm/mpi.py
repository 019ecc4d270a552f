"""Messages between ranks over MPI, for gqmm.dispatch.ExpertLayer. It needs mpi4py and an MPI library.

`pip install mpi4py mpich` installs both without root. mpi4py also finds OpenMPI from the system. A program that starts with
`mpirun -n 4 python program.py` runs on four ranks::

    engine = gqmm.mpi.Engine()
    layer = gqmm.dispatch.ExpertLayer(engine, gate, up, down, owners=owners)
    y = layer(x, topk_ids, topk_weights)
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

import numpy as np

from gqmm._engines import checked_timeout, ends_of, parts_of, text_of_missing

try:
    from mpi4py import MPI
except (ImportError, RuntimeError) as why:  # RuntimeError: mpi4py is here, but no MPI library
    raise ImportError(f"gqmm.mpi needs mpi4py and an MPI library ({why}); run: pip install mpi4py mpich") from why

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

__all__ = ["Engine"]

_BYTES_OF_A_MESSAGE = 2**30  # MPI 3 counts bytes in an int
_SECONDS_OF_YIELDING = 2e-3
_SECONDS_OF_A_SLEEP = 1e-4
_SECONDS_BEFORE_AN_ABORT = 0.5
"""For the launcher, to pass on what was written to stderr: MPICH's may end before it otherwise."""


class Engine:
    """The ranks of an MPI communicator. All of them make one together, and call all_to_all together.

    A rank that ends or stalls would let the others wait without an end. So after `timeout` seconds they write a sentence with its
    number to stderr, and MPI ends all processes of the program, with a status that is not 0.
    """

    def __init__(self, comm: MPI.Intracomm | None = None, *, timeout: float | None = 60.0) -> None:
        """Make a communicator of our own, so that no message of the program is taken for one of ours.

        Args:
            comm: an mpi4py.MPI.Intracomm; None stands for MPI.COMM_WORLD.
            timeout: how many seconds a rank waits for the others in one all_to_all; None stands for no limit.

        Raises:
            TypeError: comm is no Intracomm, or timeout is no number.
            ValueError: timeout is not positive.
        """
        comm = MPI.COMM_WORLD if comm is None else comm
        if not isinstance(comm, MPI.Intracomm):
            raise TypeError(f"[mpi.Engine] comm: expected an mpi4py.MPI.Intracomm or None, got {type(comm).__name__}")
        self._timeout = checked_timeout("mpi.Engine", timeout)
        self._program_comm = comm
        self._comm, request = comm.Idup()
        self._wait([request], "all ranks to make their engine: some ended or stalled")

    @property
    def rank(self) -> int:
        """The number of this rank."""
        return self._comm.rank

    @property
    def ranks(self) -> int:
        """How many ranks there are."""
        return self._comm.size

    def all_to_all(
        self, arrays: Sequence[npt.NDArray[np.uint8]], send_counts: npt.NDArray[np.int64], recv_counts: npt.NDArray[np.int64]
    ) -> list[npt.NDArray[np.uint8]]:
        """Exchange rows of bytes between all ranks, as gqmm.dispatch.Engine.all_to_all says.

        After `timeout` seconds in which no message has come or gone, it writes the numbers of the ranks it waits for to stderr,
        and calls MPI_Abort.
        """
        received = [np.empty((int(recv_counts.sum()), array.shape[1]), np.uint8) for array in arrays]
        requests: list[MPI.Request] = []
        peers: list[int] = []
        sources, targets = ends_of(recv_counts), ends_of(send_counts)
        for tag, (array, result) in enumerate(zip(arrays, received, strict=True)):
            result[slice(*sources[self.rank])] = array[slice(*targets[self.rank])]
            for peer in self._others():
                for call, whole, ends in ((self._comm.Irecv, result, sources), (self._comm.Isend, array, targets)):
                    for part in parts_of(whole[slice(*ends[peer])], _BYTES_OF_A_MESSAGE):
                        requests.append(call([part, MPI.BYTE], peer, tag))
                        peers.append(peer)
        self._wait(requests, peers)
        return received

    def _others(self) -> list[int]:
        """The other ranks, from the next one on, so that not all send to the same rank at once."""
        return [(self.rank + step) % self.ranks for step in range(1, self.ranks)]

    def _wait(self, requests: list[MPI.Request], for_whom: Sequence[int] | str) -> None:
        """Wait for requests; `for_whom` has the rank of each, or says who is missing."""
        progress = time.monotonic()
        pending = set(range(len(requests)))
        while pending:
            done = MPI.Request.Testsome(requests)
            pending.difference_update(done or ())
            waited = time.monotonic() - progress
            if done:
                progress = time.monotonic()
            elif self._timeout is not None and waited > self._timeout:
                missing = for_whom if isinstance(for_whom, str) else sorted({for_whom[each] for each in pending})
                self.abort(self._sentence(missing))
            elif waited < _SECONDS_OF_YIELDING:
                os.sched_yield()  # ranks may share a processor
            else:
                time.sleep(_SECONDS_OF_A_SLEEP)

    def _sentence(self, missing: Sequence[int] | str) -> str:
        whom = missing if isinstance(missing, str) else text_of_missing(missing)
        return f"[mpi.Engine] rank {self._program_comm.rank} waited {self._timeout:g} s for {whom}"

    def abort(self, why: str) -> None:
        """End all ranks. `why` goes to stderr."""
        sys.stderr.write(f"{why}; the group is aborted\n")
        sys.stderr.flush()
        time.sleep(_SECONDS_BEFORE_AN_ABORT)
        self._program_comm.Abort(1)
