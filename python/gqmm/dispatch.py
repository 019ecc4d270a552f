"""Layers of experts on several ranks: which rows of x each rank needs, and where its results return to.

ExpertLayer is such a layer over an engine, which carries its messages. The other names are its steps, for programs that send the
messages themselves: MPI, torch.distributed, a simulation in one process. Each rank has tokens and some of the experts. One layer
takes two exchanges::

    plan = DispatchPlan(topk_ids, owners, rank, ranks, num_experts)
    rows = pack_rows(plan, x)                    # send plan.send_counts[r] of them, and of plan.send_ids, to rank r
    ids = local_ids(received_ids, owners, rank)  # what came, from rank 0 on
    slots = gqmm.moe_ffn(received_rows, ids, None, gate, up, down, missing="zero")
    results = pack_results(slots, ids)           # return_counts(ids, row_counts)[r] of them return to rank r
    y = combine(plan, unpack(plan, returned_results), topk_weights)

A message to rank r has send_counts[r] rows of x and as many times k ids of 4 bytes. The one that returns has recv_counts[r] rows
of the result's type. A token's row goes once to each rank that computes one of its slots. Slots are rounded before they return.
They are added up where the token is, in the order of the slots. So y has the bits of one rank, on any number of ranks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gqmm import _gqmm
from gqmm._engines import Engine
from gqmm._expert_layer import ExpertLayer
from gqmm._gqmm import DispatchPlan, ExpertOwners

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

    from gqmm._gqmm import Stream
    from gqmm._types import Array

__all__ = [
    "DispatchPlan",
    "Engine",
    "ExpertLayer",
    "ExpertOwners",
    "combine",
    "local_ids",
    "pack_results",
    "pack_rows",
    "return_counts",
    "unpack",
]


def pack_rows(plan: DispatchPlan, x: Array, *, stream: Stream | None = None) -> Any:
    """Gather the rows to send: row i is that of token plan.send_rows[i].

    Args:
        plan: where the tokens go.
        x: the tokens, any type, shape (…, H) with the leading dimensions of topk_ids.
        stream: None, or a Stream to choose the number of threads or the memory node.

    Returns:
        An array of x's library and type, of shape (rows, H).

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: the shapes do not fit.
    """
    return _gqmm.pack_rows(plan, x, stream)


def local_ids(ids: Array, owners: ExpertOwners | Array | Sequence[int | Sequence[int]], rank: int) -> npt.NDArray[np.int64]:
    """Convert ids that came with rows to positions among the experts that rank holds: those of moe_ffn's weights there.

    Args:
        ids: any integer type and shape.
        owners: an ExpertOwners, or what it is made of.
        rank: the rank that computes.

    Returns:
        int64, of the shape of ids; -1 where the id is negative.

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: rank does not hold one of the ids. Then the ranks have different owner maps.
    """
    result: npt.NDArray[np.int64] = _gqmm.local_ids(ids, owners, rank)
    return result


def pack_results(slots: Array, ids: Array, *, stream: Stream | None = None) -> Any:
    """Gather the results to return: the rows of slots whose id is not negative, in their order.

    Args:
        slots: what moe_ffn gives without topk_weights, any type, shape (rows, k, H).
        ids: the ids that came with the rows, or those of local_ids, any integer type, shape (rows, k).
        stream: None, or a Stream to choose the number of threads or the memory node.

    Returns:
        An array of the library and type of slots, of shape (results, H).

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: the shapes do not fit.
    """
    return _gqmm.pack_results(slots, ids, stream)


def return_counts(ids: Array, row_counts: Array) -> npt.NDArray[np.int64]:
    """Count the results that return to each source of rows: the ids that are not negative among its rows.

    Args:
        ids: the ids that came with the rows, or those of local_ids, any integer type, shape (rows, k).
        row_counts: how many rows each source sent, any integer type, shape (sources,).

    Returns:
        int64, shape (sources,).

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: row_counts does not add up to the rows of ids.
    """
    result: npt.NDArray[np.int64] = _gqmm.return_counts(ids, row_counts)
    return result


def unpack(plan: DispatchPlan, received: Array, *, stream: Stream | None = None) -> Any:
    """Put results that returned into their slots. Slots of nobody are zero.

    Args:
        plan: where the tokens went.
        received: the results, from rank 0 on, any type, shape (results, H). Rank r returned plan.recv_counts[r] of them.
        stream: None, or a Stream to choose the number of threads or the memory node.

    Returns:
        An array of the library and type of received, of shape (…, k, H).

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: there are more or fewer results than the plan has.
    """
    return _gqmm.unpack_results(plan, received, stream)


def combine(plan: DispatchPlan, slots: Array, topk_weights: Array, *, stream: Stream | None = None) -> Any:
    """Add up each token's slots with its router's weights, as gqmm.moe_combine does.

    Args:
        plan: where the tokens went.
        slots: the slots of unpack, float16, bfloat16 or float32, shape (…, k, H).
        topk_weights: float16, bfloat16 or float32, shape (…, k).
        stream: None, or a Stream to choose the number of threads or the memory node.

    Returns:
        An array of the library and type of slots, of shape (…, H).

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: the shapes are not those of the plan.
    """
    return _gqmm.combine(plan, slots, topk_weights, stream)
