"""The peers of one case: which of them can run, their errors and their times."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any, ClassVar

from .case import CaseSettings
from .ggml_peers import ggml_peers
from .gqmm_peers import gqmm_peers
from .mlx_peers import mlx_peers
from .peer import Measured, Peer
from .torch_peers import torch_peers

REPETITION_SECONDS = 0.02


def available_memory() -> float:
    """Return the number of bytes that can be allocated without swapping."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return 1024 * float(lines["MemAvailable"].split()[0])


class CasePeers:
    LIBRARIES: ClassVar = {"gqmm": gqmm_peers, "mlx": mlx_peers, "torch": torch_peers, "ggml": ggml_peers}

    def __init__(self, settings: dict[str, Any]) -> None:
        self.case = CaseSettings(settings)
        self.products: dict[str, Measured] = {}
        self.peers: list[Peer] = []
        wanted: list[str] = settings["peers"]
        for library, make in self.LIBRARIES.items():
            if any(name.startswith(library) or library.startswith(name) for name in wanted):
                self.peers += [p for p in make(self.case) if p.skipped or any(p.name.startswith(name) for name in wanted)]
        for peer in self.peers:
            self.set_up(peer, settings["seconds"])

    def set_up(self, peer: Peer, limit: float) -> None:
        if peer.prepare is None:
            return
        free = 0.8 * available_memory()
        if peer.weight_bytes > free:
            peer.skipped = f"needs {peer.weight_bytes / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are free"
            return
        try:
            product = peer.prepare()
            expected = self.expected_seconds(product, limit)
            if expected > limit:
                peer.skipped = f"would take about {expected:.2g} s per call (--peer-seconds {limit:g})"
                return
            experts = self.case.route(self.case.tokens)
            error = product.error(experts, product.run(experts), self.case.random)
            if not math.isfinite(error):  # JSON has no such numbers
                raise ArithmeticError("results are not finite; use --dtype float32 or bfloat16")
            peer.error, self.products[peer.name] = error, product
        except Exception as error:  # the report says that the library cannot run the case, and the benchmark goes on
            peer.skipped = f"{type(error).__name__}: {error}".splitlines()[0]

    def expected_seconds(self, product: Measured, limit: float) -> float:
        """Estimate the seconds of one call, by calls with more and more tokens.

        A library needs less time per token if there are many tokens, so a call with a single token says little. None of these
        calls takes much longer than the limit.
        """
        tokens, all_tokens = 1, self.case.tokens
        product.run(self.case.route(1))
        while True:
            experts = self.case.route(tokens)
            start = time.perf_counter()
            product.run(experts)
            seconds = time.perf_counter() - start
            if tokens == all_tokens or 4 * seconds > limit:
                return seconds * all_tokens / tokens
            tokens = min(4 * tokens, all_tokens)

    def run(self, name: str) -> float:
        run, calls, seconds = self.products[name].run, 0, 0.0
        while seconds < REPETITION_SECONDS:
            experts = self.case.route(self.case.tokens)
            start = time.perf_counter()
            run(experts)
            seconds += time.perf_counter() - start
            calls += 1
        return seconds / calls
