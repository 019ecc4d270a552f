"""Messages between ranks over torch.distributed, for gqmm.dispatch.ExpertLayer. It uses PyTorch's gloo, which sends over TCP.

A program that starts with `torchrun --nproc-per-node 2 program.py` runs on two ranks::

    torch.distributed.init_process_group("gloo")
    engine = gqmm.torch_dist.Engine()
    layer = gqmm.dispatch.ExpertLayer(engine, gate, up, down, owners=owners)
    y = layer(x, topk_ids, topk_weights)
    torch.distributed.destroy_process_group()    # or gloo's threads may abort the process when it ends
"""

from __future__ import annotations

import contextlib
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from gqmm._engines import checked_timeout, text_of_missing

try:
    import torch
    import torch.distributed as dist
except ImportError as why:
    raise ImportError(f"gqmm.torch_dist needs PyTorch ({why}); run: pip install torch") from why

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

__all__ = ["Engine"]

_ROLL_CALL = timedelta(seconds=5)
_NO_LIMIT = timedelta(days=365)


class Engine:
    """The ranks of a process group. All of them make one together, and call all_to_all together.

    A rank that ends or stalls makes the others raise RuntimeError, at the latest after `timeout` seconds. The message has its
    number. The engine cannot be used after that.
    """

    def __init__(self, group: dist.ProcessGroup | None = None, *, timeout: float | None = 60.0) -> None:
        """Make gloo groups of the same ranks, so that the program's own groups and their timeouts stay as they are.

        Args:
            group: a torch.distributed.ProcessGroup; None stands for all ranks. Its backend may be another one.
            timeout: how many seconds a rank waits for the others in one all_to_all; None stands for no limit.

        Raises:
            TypeError: group is no ProcessGroup, or timeout is no number.
            ValueError: timeout is not positive, or this process is not in the group.
            RuntimeError: torch.distributed.init_process_group was not called.
        """
        seconds = checked_timeout("torch_dist.Engine", timeout)
        if group is not None and not isinstance(group, dist.ProcessGroup):
            raise TypeError(
                f"[torch_dist.Engine] group: expected a torch.distributed.ProcessGroup or None, got {type(group).__name__}"
            )
        if not dist.is_initialized():
            raise RuntimeError("[torch_dist.Engine] there is no process group; call torch.distributed.init_process_group first")
        if dist.get_rank(group) < 0:
            raise ValueError("[torch_dist.Engine] this process is not in the group; make engines in those that are")
        ranks = dist.get_process_group_ranks(group)
        limit = _NO_LIMIT if seconds is None else timedelta(seconds=seconds)
        self._group = dist.new_group(ranks, timeout=limit, backend="gloo", use_local_synchronization=True)
        # When the first group fails, its connections are closed. Then this one tells who is still there.
        self._roll_call_group = dist.new_group(ranks, timeout=_ROLL_CALL, backend="gloo", use_local_synchronization=True)

    @property
    def rank(self) -> int:
        """The number of this rank."""
        return int(dist.get_rank(self._group))

    @property
    def ranks(self) -> int:
        """How many ranks there are."""
        return int(dist.get_world_size(self._group))

    def all_to_all(
        self, arrays: Sequence[npt.NDArray[np.uint8]], send_counts: npt.NDArray[np.int64], recv_counts: npt.NDArray[np.int64]
    ) -> list[npt.NDArray[np.uint8]]:
        """Exchange rows of bytes between all ranks, as gqmm.dispatch.Engine.all_to_all says.

        Raises:
            RuntimeError: some ranks have ended, or did not answer in time.
        """
        received = [np.empty((int(recv_counts.sum()), array.shape[1]), np.uint8) for array in arrays]
        try:
            for array, result in zip(arrays, received, strict=True):
                if array.shape[1]:  # that is equal on all ranks
                    dist.all_to_all_single(
                        torch.from_numpy(result),
                        torch.from_numpy(np.ascontiguousarray(array)),
                        recv_counts.tolist(),
                        send_counts.tolist(),
                        group=self._group,
                    )
        except RuntimeError as why:
            raise RuntimeError(self._explained(why)) from why
        return received

    def abort(self, why: str) -> None:
        """Close the connections of this rank, so that the others raise RuntimeError. This rank's own error says `why`."""
        dist.destroy_process_group(self._group)

    def _explained(self, why: RuntimeError) -> str:
        missing = self._missing_ranks()
        whom = text_of_missing(missing) if missing else "other ranks, which all answer now"
        return f"[torch_dist.Engine] rank {self.rank} could not exchange rows with {whom}; start the program again ({why})"

    def _missing_ranks(self) -> list[int]:
        """Exchange a byte with each other rank, and return those with which that fails."""
        others = [rank for rank in range(self.ranks) if rank != self.rank]
        exchanges: dict[int, list[Any]] = {rank: [] for rank in others}
        for rank in others:
            with contextlib.suppress(RuntimeError):
                mine, theirs = torch.zeros(1, dtype=torch.uint8), torch.zeros(1, dtype=torch.uint8)
                exchanges[rank] += [
                    dist.irecv(theirs, group=self._roll_call_group, group_src=rank),
                    dist.isend(mine, group=self._roll_call_group, group_dst=rank),
                ]
        return [rank for rank, works in exchanges.items() if not self._are_done(works)]

    @staticmethod
    def _are_done(works: list[Any]) -> bool:
        try:
            return len(works) == 2 and all(work.wait(_ROLL_CALL) for work in works)
        except RuntimeError:
            return False
