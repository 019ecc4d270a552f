"""The other libraries that `gqmm bench` measures, in a process of their own beside it.

Reads one JSON object per line from standard input and answers each with one on standard output:

    {"case": {...}}   sets up the peers of a case   {"peers": [{"name", "version", "computes", "skipped"}, ...]}
    {"run": "name"}   one repetition of a peer      {"seconds": of one call}

or {"error": "..."}. Weights are random bits: none of these libraries' speed depends on them.
"""

import importlib.util
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

REPETITION_SECONDS = 0.02


@dataclass
class Peer:
    name: str
    version: str
    computes: str
    prepare: Callable[[], Callable[[np.ndarray], None]] | None = None
    """Makes the operands; what it returns runs one call for experts of shape (tokens, top)."""
    skipped: str = ""


class Case:
    def __init__(self, settings: dict[str, Any]) -> None:
        self.experts: int = settings["experts"]
        self.N: int = settings["n"]
        self.K: int = settings["k"]
        self.top: int = settings["top"]
        self.tokens: int = settings["tokens"]
        self.mode: str = settings["mode"]
        self.bits: int = settings["bits"]
        self.group_size: int = settings["group_size"]
        self.transpose: bool = settings["transpose"]
        self.row_per_pair: bool = settings["row_per_pair"]
        self.routing: str = settings["routing"]
        self.popularity = np.array(settings["popularity"])
        self.threads: int = settings["threads"]
        self.random = np.random.default_rng(1)

    def route(self, tokens: int) -> np.ndarray:
        """Experts of every token, as the case's routing has them: (tokens, top), uint32."""
        pairs = tokens * self.top
        if self.routing == "one":
            experts = np.full(pairs, self.random.integers(self.experts))
        elif self.routing == "uniform":
            experts = np.concatenate([self.random.permutation(self.experts)[: self.top] for _ in range(tokens)])
        elif self.routing == "learned":
            names = self.random.permutation(self.experts)
            experts = np.concatenate([names[self.prefer()] for _ in range(tokens)])
        else:
            decks = [self.random.permutation(self.experts) for _ in range(-(-pairs // self.experts))]
            experts = np.concatenate(decks)[:pairs]
        return experts.reshape(tokens, self.top).astype(np.uint32)

    def prefer(self) -> np.ndarray:
        """One token's experts, each as likely as its popularity says (bench/rotation.hpp)."""
        order = self.random.permutation(self.experts)
        marks = self.random.uniform() + np.arange(self.top)
        chosen = np.searchsorted(np.cumsum(self.popularity[order]), marks, side="right")
        return order[np.minimum(chosen, self.experts - 1)]

    def activations(self, *shape: int) -> np.ndarray:
        return self.random.standard_normal(shape, dtype=np.float32)


def mlx_peers(case: Case) -> Iterator[Peer]:
    """Unmodified mx.gather_qmm on MLX's CPU backend, the same format and routing."""
    if importlib.util.find_spec("mlx") is None:
        yield Peer("mlx", "", "", skipped="not installed")
        return
    import mlx.core as mx

    mx.set_default_device(mx.cpu)

    def prepare(dtype: Any) -> Callable[[np.ndarray], None]:
        rows, columns = (case.N, case.K) if case.transpose else (case.K, case.N)
        w = mx.array(case.random.integers(2**32, size=(case.experts, rows, columns * case.bits // 32), dtype=np.uint32))
        groups = (case.experts, rows, columns // case.group_size)
        if case.mode == "affine":
            scales = mx.array(case.random.uniform(0.01, 0.02, groups).astype(np.float32)).astype(dtype)
            biases = -scales
        else:
            scales, biases = mx.array(case.random.integers(0x28, 0x38, groups, dtype=np.uint8)), None
        x = mx.array(case.activations(case.tokens, case.top if case.row_per_pair else 1, 1, case.K)).astype(dtype)
        mx.eval(w, scales, biases, x)

        def call(experts: np.ndarray) -> None:
            y = mx.gather_qmm(
                x[: len(experts)],
                w,
                scales,
                biases,
                rhs_indices=mx.array(experts),
                transpose=case.transpose,
                group_size=case.group_size,
                bits=case.bits,
                mode=case.mode,
            )
            mx.eval(y)

        return call

    for name, dtype in (("float32", mx.float32), ("bfloat16", mx.bfloat16)):
        computes = f"mx.gather_qmm on the CPU, {name}: the same quantized product"
        yield Peer(f"mlx gather_qmm {name}", mx.__version__, computes, lambda dtype=dtype: prepare(dtype))


def torch_peers(case: Case) -> Iterator[Peer]:
    """PyTorch's dense products of the same size, weights not quantized."""
    if importlib.util.find_spec("torch") is None:
        yield Peer("torch", "", "", skipped="not installed")
        return
    import torch
    from torch.nn.functional import linear

    torch.set_num_threads(case.threads)
    torch.set_grad_enabled(False)

    def prepare_dense(dtype: Any) -> Callable[[np.ndarray], None]:
        w = torch.randn(case.N, case.K).to(dtype)
        x = torch.randn(case.tokens * case.top, case.K).to(dtype)
        return lambda experts: (linear(x[: experts.size], w), None)[1]

    def prepare_experts(dtype: Any) -> Callable[[np.ndarray], None]:
        w = torch.empty(case.experts, case.N, case.K, dtype=dtype).uniform_(-1, 1)
        x = torch.randn(case.tokens * case.top, case.K).to(dtype)

        def call(experts: np.ndarray) -> None:
            first = 0
            for expert, rows in zip(*np.unique(experts, return_counts=True), strict=True):
                linear(x[first : first + rows], w[int(expert)])
                first += rows

        return call

    for name, dtype in (("bfloat16", torch.bfloat16), ("float32", torch.float32)):
        computes = f"one dense {name} matrix times all rows: as many operations, no experts"
        yield Peer(f"torch dense {name}", torch.__version__, computes, lambda dtype=dtype: prepare_dense(dtype))
        computes = f"a loop over the experts' dense {name} matrices, rows already grouped"
        yield Peer(f"torch experts {name}", torch.__version__, computes, lambda dtype=dtype: prepare_experts(dtype))


class CasePeers:
    def __init__(self, settings: dict[str, Any]) -> None:
        self.case = Case(settings)
        self.calls: dict[str, Callable[[np.ndarray], None]] = {}
        self.peers: list[Peer] = []
        wanted: list[str] = settings["peers"]
        for library, make in (("mlx", mlx_peers), ("torch", torch_peers)):
            if any(name.startswith(library) or library.startswith(name) for name in wanted):
                self.peers += [p for p in make(self.case) if p.skipped or any(p.name.startswith(name) for name in wanted)]
        for peer in self.peers:
            self.set_up(peer, settings["seconds"])

    def set_up(self, peer: Peer, limit: float) -> None:
        if peer.prepare is None:
            return
        try:
            call = peer.prepare()
            call(self.case.route(1))
            start = time.perf_counter()
            call(self.case.route(1))
            expected = (time.perf_counter() - start) * self.case.tokens
            if expected > limit:
                peer.skipped = f"would take about {expected:.0f} s per call (--peer-seconds {limit:g})"
                return
            call(self.case.route(self.case.tokens))
            self.calls[peer.name] = call
        except Exception as error:  # a library that cannot run the case is reported, not fatal
            peer.skipped = f"{type(error).__name__}: {error}".splitlines()[0]

    def run(self, name: str) -> float:
        call, calls, seconds = self.calls[name], 0, 0.0
        while seconds < REPETITION_SECONDS:
            experts = self.case.route(self.case.tokens)
            start = time.perf_counter()
            call(experts)
            seconds += time.perf_counter() - start
            calls += 1
        return seconds / calls


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Whatever a library prints must not end up among the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    current: CasePeers | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "case" in request:
                current = CasePeers(request["case"])
                keys = ("name", "version", "computes", "skipped")
                answer: dict[str, Any] = {"peers": [{key: getattr(peer, key) for key in keys} for peer in current.peers]}
            else:
                assert current is not None
                answer = {"seconds": current.run(request["run"])}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
