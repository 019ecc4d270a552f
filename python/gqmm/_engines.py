"""What engines have in common: gqmm.dispatch.ExpertLayer sends its messages through one of them."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt


class Engine(Protocol):
    """Carries messages between ranks. Every rank has an object of its own, and all of them call all_to_all together."""

    @property
    def rank(self) -> int:
        """The number of this rank."""

    @property
    def ranks(self) -> int:
        """How many ranks there are."""

    def all_to_all(
        self, arrays: Sequence[npt.NDArray[np.uint8]], send_counts: npt.NDArray[np.int64], recv_counts: npt.NDArray[np.int64]
    ) -> list[npt.NDArray[np.uint8]]:
        """Send rows of bytes to every rank, and receive what they send.

        Args:
            arrays: each of shape (sum(send_counts), bytes of a row), uint8, row-major: the rows for rank 0, then those for rank 1
                and so on. They are read, and only until the call returns.
            send_counts: (ranks,), how many rows go to each rank.
            recv_counts: (ranks,), how many rows each rank sends here.

        Returns:
            For each array one of shape (sum(recv_counts), bytes of a row): the rows from rank 0, then those from rank 1
            and so on.

        Raises:
            RuntimeError: other ranks have ended or do not answer. An engine may also end the process.
        """

    def abort(self, why: str) -> None:
        """End all ranks, since this one has met an error between two exchanges, so that the others would wait for it in vain."""


def checked_timeout(owner: str, timeout: float | None) -> float | None:
    """Return a timeout in seconds, or None for no limit."""
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"[{owner}] timeout: expected a number of seconds or None, got {type(timeout).__name__}")
    if not 0 < timeout < np.inf:
        raise ValueError(f"[{owner}] timeout = {timeout} is not a positive number of seconds; pass None for no limit")
    return float(timeout)


def text_of_missing(ranks: Sequence[int]) -> str:
    """Return "rank 2: it ended or stalled", or "ranks 1, 3: they ended or stalled"."""
    several = len(ranks) > 1
    names = ", ".join(map(str, ranks))
    return f"ranks {names}: they ended or stalled" if several else f"rank {names}: it ended or stalled"


def ends_of(counts: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return the first row of each rank and the one after its last."""
    return list(pairwise([0, *np.cumsum(counts).tolist()]))


def parts_of(rows: npt.NDArray[np.uint8], most_bytes: int) -> Iterator[npt.NDArray[np.uint8]]:
    """Cut the bytes of rows into messages of at most so many bytes. There is none for no bytes."""
    flat = rows.reshape(-1)
    for start in range(0, flat.size, most_bytes):
        yield flat[start : start + most_bytes]
