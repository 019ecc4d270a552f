"""The memory nodes of the machine."""

from __future__ import annotations

from typing import NamedTuple

from gqmm import _gqmm


class MemoryNode(NamedTuple):
    """A part of the machine's memory, with the processors that are nearest to it. Such a part is often a socket."""

    number: int
    """As gqmm.Stream and numactl take it."""
    processors: tuple[int, ...]
    """The numbers of those of its processors that the calling thread may use; at least one."""


def memory_nodes() -> list[MemoryNode]:
    """List the memory nodes that have processors which the calling thread may use (its affinity mask), in order.

    If the system does not say which nodes there are, this is one node with the number 0. The system is asked once for the nodes,
    and for the mask at every call.
    """
    return [MemoryNode(*fields) for fields in _gqmm.memory_nodes()]
