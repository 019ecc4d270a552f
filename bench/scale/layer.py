"""A layer of experts that are divided over ranks, and what its calls take."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import gqmm
import gqmm.dispatch
import gqmm.mpi
import ml_dtypes
import numpy as np
import numpy.typing as npt

ROUTINGS = 8  # tokens and their experts, which calls take by turns; a turn has as many calls of each
MOST_ROUNDS = 250  # of all routings in a turn


def dtype_of(name: str) -> Any:
    return np.dtype(getattr(ml_dtypes, name, name))


@dataclass(frozen=True)
class Settings:
    hidden: int
    experts: int
    top: int
    width: int
    bits: int
    group_size: int
    dtype: str
    scale_dtype: str
    ranks: int
    threads: int  # of each rank
    pool_bytes: int  # that all copies of the layer have at least, so that its weights come from memory


class Tokens(NamedTuple):
    """The tokens of a rank, as arguments of a layer."""

    x: npt.NDArray[Any]
    topk_ids: npt.NDArray[np.int64]
    topk_weights: npt.NDArray[np.float32]


class CountingEngine:
    """An engine that sends by another one, and counts its seconds and the bytes that go to other ranks."""

    def __init__(self, engine: gqmm.mpi.Engine) -> None:
        self.engine = engine
        self.rank, self.ranks = engine.rank, engine.ranks
        self.seconds = 0.0
        self.bytes = 0

    def all_to_all(
        self, arrays: Sequence[npt.NDArray[np.uint8]], send_counts: npt.NDArray[np.int64], recv_counts: npt.NDArray[np.int64]
    ) -> list[npt.NDArray[np.uint8]]:
        start = time.perf_counter()
        received = self.engine.all_to_all(arrays, send_counts, recv_counts)
        self.seconds += time.perf_counter() - start
        rows = int(send_counts.sum() - send_counts[self.rank])
        self.bytes += rows * sum(array.shape[1] for array in arrays)
        return received

    def abort(self, why: str) -> None:
        self.engine.abort(why)


def random_weights(settings: Settings, shape: tuple[int, int, int], rng: np.random.Generator) -> tuple[Any, Any, Any]:
    """Draw codes for weights of (experts, N, K), with scales and biases that give the weights mean 0 and variance 1 / K."""
    experts, outputs, inputs = shape
    codes = rng.integers(0, 2**32, (experts, outputs, inputs * settings.bits // 32), np.uint32)
    levels = 2**settings.bits
    scale = 1 / math.sqrt(inputs * (levels**2 - 1) / 12)
    scales = np.full((experts, outputs, inputs // settings.group_size), scale, dtype_of(settings.scale_dtype))
    biases = np.full_like(scales, -scale * (levels - 1) / 2)
    return codes, scales, biases


class LayerBench:
    """Copies of a layer whose experts are divided over the ranks. All ranks call all methods together."""

    def __init__(self, world: Any, settings: Settings) -> None:
        self.world, self.settings = world, settings
        self.engine = CountingEngine(gqmm.mpi.Engine(world))
        self.stream = gqmm.Stream(threads=settings.threads)
        self.owners = gqmm.dispatch.ExpertOwners.contiguous(settings.experts, settings.ranks)
        self.weights = self.copies_of_weights()
        self.layers = [
            gqmm.dispatch.ExpertLayer(self.engine, *block, owners=self.owners, stream=self.stream) for block in self.weights
        ]
        self.calls = 0  # so far, which take the copies by turns
        self.tokens: list[Tokens] = []
        self.count = 0  # tokens of all ranks

    def copies_of_weights(self) -> list[list[Any]]:
        """Return gate, up and down of this rank's experts, as often as it takes to fill the pool."""
        settings = self.settings
        rng = np.random.default_rng(self.world.rank)
        held = len(self.owners.experts_of(self.world.rank))
        shapes = [(held, settings.width, settings.hidden)] * 2 + [(held, settings.hidden, settings.width)]
        block = [random_weights(settings, shape, rng) for shape in shapes]
        bytes_of_layer = self.world.allreduce(sum(array.nbytes for arrays in block for array in arrays))
        copies = max(1, math.ceil(settings.pool_bytes / bytes_of_layer))
        return [[self.copy_of(arrays) for arrays in block] for _ in range(copies)]

    def copy_of(self, arrays: tuple[Any, Any, Any]) -> gqmm.QuantizedWeights:
        copies = (array.copy() for array in arrays)
        return gqmm.QuantizedWeights(*copies, group_size=self.settings.group_size, bits=self.settings.bits)

    def set_up(self, count: int) -> None:
        """Draw so many tokens of all ranks, several times. Every rank keeps its own."""
        settings = self.settings
        rng = np.random.default_rng(count)  # the same on every rank
        self.count, self.tokens = count, []
        for _ in range(ROUTINGS):
            x = rng.standard_normal((count, settings.hidden), np.float32).astype(dtype_of(settings.dtype))
            ids = np.argsort(rng.random((count, settings.experts)), axis=1)[:, : settings.top]
            weights = np.full((count, settings.top), 1 / settings.top, np.float32)
            own = slice(self.world.rank, None, settings.ranks)
            self.tokens.append(Tokens(np.ascontiguousarray(x[own]), np.ascontiguousarray(ids[own]), weights[own]))

    def next_copy(self) -> int:
        self.calls += 1
        return self.calls % len(self.layers)

    def wait_for_ranks(self) -> None:
        """Wait until all ranks are here. MPI's own barrier would take the cores from ranks that share them."""
        request = self.world.Ibarrier()
        while not request.Test():
            os.sched_yield()

    def call(self, tokens: Tokens) -> tuple[float, float]:
        """Return the seconds of this rank's call, and those within its exchanges."""
        layer = self.layers[self.next_copy()]
        self.wait_for_ranks()
        before, start = self.engine.seconds, time.perf_counter()
        layer(*tokens)
        return time.perf_counter() - start, self.engine.seconds - before

    def call_alone(self, tokens: Tokens) -> float:
        """Return the seconds of plain moe_ffn, of a process that has all experts."""
        block = self.weights[self.next_copy()]
        start = time.perf_counter()
        gqmm.moe_ffn(*tokens, *block, stream=self.stream)
        return time.perf_counter() - start

    def turn(self, at_least: float) -> dict[str, Any]:
        """Measure calls for about so many seconds. Rank 0 gets the figures of all ranks, and others an empty answer."""
        first = max(self.world.allgather(self.call(self.tokens[0])[0]))  # it also fills caches and wakes threads
        rounds = min(math.ceil(at_least / (first * ROUTINGS)), MOST_ROUNDS)
        bytes_before = self.engine.bytes
        own, alone = [], []
        for tokens in self.tokens * rounds:
            own.append(self.call(tokens))
            if self.settings.ranks == 1:
                alone.append(self.call_alone(tokens))
        figures = self.world.gather((own, self.engine.bytes - bytes_before))
        if figures is None:
            return {}
        seconds = np.array([each for each, _ in figures])  # rank, call, whole or exchanges
        return {
            "seconds": float(np.median(seconds[:, :, 0].max(axis=0))),
            "exchange_seconds": float(np.median(seconds[:, :, 1].mean(axis=0))),
            "bytes_per_token": sum(sent for _, sent in figures) / (len(own) * self.count),
            "calls": len(own),
        } | ({"alone_seconds": statistics.median(alone)} if alone else {})
