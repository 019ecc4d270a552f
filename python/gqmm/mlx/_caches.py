"""Where mlx-lm's key-value caches have the key at position 0.

Attention sums over blocks of keys that are aligned to positions. So a request has the same bits in every cache, if the positions
of its keys are known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import mlx.core as mx

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Positions:
    """The positions of the keys that a cache returned at its last update."""

    origin: int | mx.array = 0  # the index of the key at position 0, for all sequences or for each
    first: int = 0  # the index of the oldest key in a cache that is a ring


def _of_rotating(cache: Any, length: int) -> Positions | None:
    if cache.keep > 0 and cache.offset > length:
        return None  # the first keys were kept and later ones dropped, so positions have a gap
    is_ring = cache.offset > length and cache._idx < length
    return Positions(length - cache.offset, cache._idx if is_ring else 0)


def _of_batch_rotating(cache: Any, length: int) -> Positions:
    # Not left_padding: a merge of caches that have dropped keys sets it to 0.
    return Positions(length - cache.offset, cache._idx if cache.rotated and cache._idx < length else 0)


# The caches of mlx_lm.models.cache by the names of their classes. A subclass may store keys otherwise, so it is not among them.
_POSITIONS: dict[str, Callable[[Any, int], Positions | None]] = {
    "KVCache": lambda cache, length: Positions(),
    "ConcatenateKVCache": lambda cache, length: Positions(),
    "QuantizedKVCache": lambda cache, length: Positions(),
    "ChunkedKVCache": lambda cache, length: Positions(-cache.start_position),
    "RotatingKVCache": _of_rotating,
    "BatchKVCache": lambda cache, length: Positions(cache.left_padding),
    "BatchRotatingKVCache": _of_batch_rotating,
}


def positions(cache: Any, length: int) -> Positions | None:
    """Return the positions of the `length` keys that the cache returned, or None for a cache that is not known."""
    kind = type(cache)
    find = _POSITIONS.get(kind.__qualname__) if kind.__module__ == "mlx_lm.models.cache" else None
    return None if find is None else find(cache, length)


def in_order(a: mx.array, axis: int, first: int) -> mx.array:
    """Return a ring with its oldest element in front."""
    return a if first == 0 else mx.roll(a, -first, axis)
