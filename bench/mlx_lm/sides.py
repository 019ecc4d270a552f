"""The sides of the comparison: stock MLX, and gqmm.mlx with its settings. And the time that other programs take."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import Any

import gqmm.mlx


@dataclass(frozen=True)
class Side:
    who: str  # gqmm, stock
    dtype: str
    precision: str = "default"
    pack: bool = False

    def installed(self) -> contextlib.AbstractContextManager[Any]:
        """Return a context in which this side computes."""
        if self.who == "stock":
            return contextlib.nullcontext()
        return gqmm.mlx.install(precision=self.precision, pack=self.pack)


def calls() -> dict[str, int]:
    """Count the calls so far that gqmm computed, and those that it left to MLX."""
    counts = gqmm.mlx.status().calls.values()
    return {"ours": sum(count.ours for count in counts), "stock": sum(count.stock for count in counts)}


class OtherPrograms:
    """The time that other programs take of all processors, from the construction of this object on."""

    def __init__(self) -> None:
        self.start = self.seconds()

    @staticmethod
    def seconds() -> tuple[float, float, float]:
        """Return three times in seconds: of all processors together, of their busy part, and of this process."""
        with open("/proc/stat") as file:
            user, nice, system, idle, waiting, *interrupts = (int(field) for field in file.readline().split()[1:9])
        busy = user + nice + system + sum(interrupts)
        ticks = os.sysconf("SC_CLK_TCK")
        return (busy + idle + waiting) / ticks, busy / ticks, sum(os.times()[:2])

    def share(self) -> float:
        everything, busy, own = (now - before for now, before in zip(self.seconds(), self.start, strict=True))
        return min(1.0, max(0.0, busy - own) / everything) if everything > 0 else 0.0
