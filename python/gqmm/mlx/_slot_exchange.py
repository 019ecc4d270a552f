"""How the slots that ranks have computed come together, where every rank has all tokens."""

from __future__ import annotations

import atexit
import contextlib
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from gqmm.mlx._load import extension

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    from gqmm.mlx._moe import Compute


class _StreamsInUse:
    """The streams of the graphs in which ranks exchange slots.

    mlx-lm starts a token more than it gives out. If a process ends while that is computed, MLX frees the group of ranks under it,
    and crashes. So a process waits for these streams when it ends.
    """

    def __init__(self) -> None:
        self._streams: list[mx.Stream] = []

    def add(self, stream: mx.Stream) -> None:
        if stream not in self._streams:
            if not self._streams:
                atexit.register(self._wait)
            self._streams.append(stream)

    def _wait(self) -> None:
        for stream in self._streams:
            with contextlib.suppress(RuntimeError):  # another rank has ended early, and its own error says why
                mx.synchronize(stream)


_streams = _StreamsInUse()


class SlotExchange:
    """Makes the results of a layer from the slots of all ranks.

    A slot has its value on one rank and zeros on the others, so all_sum gives every rank all slots, exactly. It adds up their
    bits as integers, so −0 and NaN stay as they are, too. That sends zeros, and needs no number that depends on the tokens. For
    many tokens each slot goes to one rank instead, which adds up the token's slots. Then the ranks exchange the sums.
    """

    def __init__(self, group: mx.distributed.Group, dispatch_from: int) -> None:
        """`dispatch_from`: the number of tokens from which on slots go to one rank."""
        self.group = group
        self._dispatch_from = dispatch_from
        self._sending, self._receiving = mx.new_stream(mx.cpu), mx.new_stream(mx.cpu)
        self.sum_gradients = self._make_sum_gradients()
        """A function that returns its argument x. The gradient is the sum over all ranks."""
        self._all_slots = self._make_all_slots()
        """A function that takes the slots of this rank, and returns those of all ranks."""

    def barrier(self) -> None:
        """Wait for all ranks."""
        mx.eval(self._all_sum(mx.zeros(1)))

    def over_ranks(self, compute: Compute, rank_of_slot: mx.array) -> Compute:
        """Return what computes a whole layer.

        `compute` gives this rank's slots, with zeros for those of other ranks. rank_of_slot (…, k) says who computes each.
        """
        _streams.add(mx.default_stream(mx.default_device()))
        slots = compute(None)

        def over_all(topk_weights: mx.array | None) -> mx.array:
            if topk_weights is None:
                return self._all_slots(slots)
            ranks = self._known_ranks(rank_of_slot)
            if ranks is None:
                return self._sum_everywhere(slots, topk_weights)
            y: mx.array = self._sum_at_home(ranks)(slots, topk_weights)
            return y

        return over_all

    def _make_sum_gradients(self) -> Callable[[mx.array], mx.array]:
        @mx.custom_function
        def same(x: mx.array) -> mx.array:
            return x

        @same.vjp
        def gradient(_x: mx.array, cotangent: mx.array, _output: mx.array) -> mx.array:
            return self._all_sum(cotangent)

        return same  # type: ignore[return-value]

    def _make_all_slots(self) -> Callable[[mx.array], mx.array]:
        @mx.custom_function
        def all_slots(slots: mx.array) -> mx.array:
            return self._all_sum(slots.view(_bits_of(slots))).view(slots.dtype)

        @all_slots.vjp
        def gradient(_slots: mx.array, cotangent: mx.array, _output: mx.array) -> mx.array:
            return cotangent  # every rank has the gradient of all slots

        return all_slots  # type: ignore[return-value]

    def _all_sum(self, x: mx.array) -> mx.array:
        return self._marked(x, lambda values: mx.distributed.all_sum(values, group=self.group))

    def _marked(self, x: mx.array, exchange: Callable[[mx.array], mx.array]) -> mx.array:
        result: mx.array = extension.exchange_ended(exchange(extension.exchange_begins(x)))
        return result

    def _sum_everywhere(self, slots: mx.array, topk_weights: mx.array) -> mx.array:
        result: mx.array = extension.moe_combine(self._all_slots(slots), topk_weights)
        return result

    def _known_ranks(self, rank_of_slot: mx.array) -> npt.NDArray[np.int32] | None:
        """Return the rank of each slot, (tokens, k), if there are tokens enough and the graph may be evaluated now."""
        k = rank_of_slot.shape[-1]
        tokens = rank_of_slot.size // max(k, 1)
        if self.group.size() == 1 or tokens < self._dispatch_from:
            return None
        try:
            mx.eval(rank_of_slot)
        except ValueError:  # inside mx.compile or mx.vmap
            return None
        return np.array(rank_of_slot).reshape(tokens, k)

    def _sum_at_home(self, rank_of_slot: npt.NDArray[np.int32]) -> Any:
        route = _Route(rank_of_slot, self.group)

        @mx.custom_function
        def sums(slots: mx.array, topk_weights: mx.array) -> mx.array:
            at_home = self._send_home(route, slots)
            weights = topk_weights.reshape(-1, slots.shape[-2])[route.home]
            own = extension.moe_combine(at_home, weights)
            own = mx.pad(own, [(0, route.tokens_of_a_rank - len(own)), (0, 0)])
            gathered = self._marked(own, lambda values: mx.distributed.all_gather(values, group=self.group))
            result: mx.array = gathered[: route.tokens].reshape(*slots.shape[:-2], -1)
            return result

        @sums.vjp
        def gradients(primals: Any, cotangent: mx.array, _output: mx.array) -> Any:
            return tuple(mx.vjp(self._sum_everywhere, list(primals), [cotangent])[1])

        return sums

    def _send_home(self, route: _Route, slots: mx.array) -> mx.array:
        """Return all slots of the tokens of this rank, shape (tokens, k, H)."""
        k, H = slots.shape[-2:]
        bits = extension.exchange_begins(slots.view(_bits_of(slots))).reshape(-1, H)
        # NumPy moves rows many times faster than MLX's take and scatter on a CPU. Gradients do not come this way.
        flat = np.asarray(bits)
        at_home = np.empty((route.slots_at_home, H), flat.dtype)
        for slots_of_a_rank, rows in self._around_the_ring(route, flat):
            at_home[slots_of_a_rank - route.home.start * k] = rows
        received: mx.array = extension.exchange_ended(mx.array(at_home)).view(slots.dtype).reshape(-1, k, H)
        mx.eval(received)
        return received

    def _around_the_ring(self, route: _Route, flat: npt.NDArray[Any]) -> Iterator[tuple[npt.NDArray[np.int32], npt.NDArray[Any]]]:
        """Yield the slots that come to this rank with their rows: its own first, then those of the ranks to its left.

        MLX's ring connects neighbours alone. So a rank sends what it has for all others to its right, and each takes its part
        and passes on the rest. A rank that sends must receive at the same time, so each of the two has a stream of its own. Each
        step is evaluated at once. In one graph with what follows, MLX might start more tasks that wait for the receipt than it
        lets be active, and never come to what sends; and it might receive the second message first.
        """
        rank, ranks, H = self.group.rank(), self.group.size(), flat.shape[-1]
        left, right = (rank - 1) % ranks, (rank + 1) % ranks
        own = [route.slots(rank, (rank + step) % ranks) for step in range(ranks)]
        yield own[0], flat[own[0]]
        bundle = mx.array(flat[np.concatenate(own[1:])])
        for step in range(1, ranks):
            origin = (rank - step) % ranks
            parts = [route.slots(origin, (origin + far) % ranks) for far in range(step, ranks)]
            count = sum(map(len, parts))
            sent, came = [], mx.zeros((0, H), bundle.dtype)
            if len(bundle):
                sent.append(mx.distributed.send(bundle, right, group=self.group, stream=self._sending))
            if count:
                came = mx.distributed.recv((count, H), bundle.dtype, left, group=self.group, stream=self._receiving)
            mx.eval(came, *sent)
            yield parts[0], np.asarray(came)[: len(parts[0])]
            bundle = came[len(parts[0]) :]


def _bits_of(slots: mx.array) -> mx.Dtype:
    return mx.uint32 if slots.dtype == mx.float32 else mx.uint16


class _Route:
    """Which rank adds up each token's slots, and which slots each rank sends to each. All ranks know the whole of it.

    Rank r adds up the r-th part of the tokens.
    """

    def __init__(self, rank_of_slot: npt.NDArray[np.int32], group: mx.distributed.Group) -> None:
        rank, ranks = group.rank(), group.size()
        self.tokens, k = rank_of_slot.shape
        self.tokens_of_a_rank = -(-self.tokens // ranks)
        home_of_slot = np.repeat(np.arange(self.tokens) // self.tokens_of_a_rank, k)
        pair_of_slot = rank_of_slot.reshape(-1) * ranks + home_of_slot
        order = np.argsort(pair_of_slot, kind="stable").astype(np.int32)
        counts = np.bincount(pair_of_slot, minlength=ranks * ranks)
        self._slots = np.split(order, np.cumsum(counts)[:-1])
        self._ranks = ranks
        first = min(rank * self.tokens_of_a_rank, self.tokens)
        self.home = slice(first, min(first + self.tokens_of_a_rank, self.tokens))
        """The tokens of this rank."""
        self.slots_at_home = (self.home.stop - first) * k

    def slots(self, source: int, home: int) -> npt.NDArray[np.int32]:
        """Return the slots, token · k + slot, that `source` computes for the tokens of `home`, ascending."""
        return self._slots[source * self._ranks + home]
