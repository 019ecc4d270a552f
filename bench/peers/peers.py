"""Run the other libraries that `gqmm bench` measures. `gqmm bench` starts this script as a process of its own.

The script reads one JSON object per line from standard input, and writes an answer for each to standard output:

    {"case": {...}}   sets up the peers of a case   {"peers": [{"name", "version", "computes", "error", "skipped"}, ...]}
    {"run": "name"}   one repetition of a peer      {"seconds": of one call}

The answer {"error": "..."} says that the request failed. Weights are random bits, because the speed of none of these libraries
depends on their values.
"""

from __future__ import annotations  # annotations name NumPy's types, and NumPy may be missing

import ctypes
import importlib.metadata
import importlib.util
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

try:
    import numpy as np
except ImportError as error:
    np, numpy_error = None, f"{error}".splitlines()[0]

REPETITION_SECONDS = 0.02


@dataclass
class PeerProduct:
    """A peer's product with its operands. Speed and error are measured with the same function."""

    run: Callable[[np.ndarray], Any]
    """Makes one call for experts of shape (tokens, top)."""
    values: Callable[[Any], np.ndarray]
    """Returns the result of a call in shape (pairs, N), of any float type."""
    factors: Callable[[np.ndarray, int, np.ndarray], tuple[np.ndarray, np.ndarray]]
    """Takes (experts, row, columns). Returns the row of x, (K,), and the rows of w, (columns, K), as the peer has them. Their
    products are result[row, columns]."""

    def error(self, experts: np.ndarray, result: Any, random: np.random.Generator) -> float:
        """Return the relative error at 256 random places, as it is measured for gqmm.

        It is the root mean square of the errors, divided by that of the float64 results.
        """
        values, errors, squares = self.values(result), 0.0, 0.0
        for row in random.integers(len(values), size=16):
            columns = random.integers(values.shape[1], size=16)
            x, w = self.factors(experts, int(row), columns)
            expected = w.astype(np.float64) @ x.astype(np.float64)
            errors += float(np.sum((values[row, columns].astype(np.float64) - expected) ** 2))
            squares += float(np.sum(expected**2))
        return float(np.sqrt(errors / squares))


@dataclass
class Peer:
    name: str
    version: str
    computes: str
    prepare: Callable[[], PeerProduct] | None = None
    weight_bytes: float = 0
    skipped: str = ""
    error: float = 0


class CaseSettings:
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
        self.weights = self.experts * self.N * self.K
        self.random = np.random.default_rng(1)

    def route(self, tokens: int) -> np.ndarray:
        """Draw the experts of every token as the case's routing says. The result is uint32 of shape (tokens, top)."""
        pairs = tokens * self.top
        if self.routing == "one":
            experts = np.full(pairs, self.random.integers(self.experts))
        elif self.routing == "uniform":
            experts = np.concatenate([self.random.permutation(self.experts)[: self.top] for _ in range(tokens)])
        elif self.routing == "half":
            experts = self.route_half(pairs)
        elif self.routing == "learned":
            names = self.random.permutation(self.experts)
            experts = np.concatenate([names[self.prefer()] for _ in range(tokens)])
        else:
            decks = [self.random.permutation(self.experts) for _ in range(-(-pairs // self.experts))]
            experts = np.concatenate(decks)[:pairs]
        return experts.reshape(tokens, self.top).astype(np.uint32)

    def route_half(self, pairs: int) -> np.ndarray:
        """Give every second pair to one expert. The other pairs of a token get different experts of the rest."""
        popular, *others = self.random.permutation(self.experts)
        experts = np.full(pairs, popular)
        for first in range(0, pairs if others else 0, self.top):
            odd = experts[first + 1 - first % 2 : first + self.top : 2]
            odd[:] = self.random.permutation(others)[: len(odd)]
        return experts

    def prefer(self) -> np.ndarray:
        """Draw one token's experts, each with the probability that is its popularity (bench/measure/rotation.hpp)."""
        order = self.random.permutation(self.experts)
        marks = self.random.uniform() + np.arange(self.top)
        chosen = np.searchsorted(np.cumsum(self.popularity[order]), marks, side="right")
        return order[np.minimum(chosen, self.experts - 1)]

    def activations(self, *shape: int) -> np.ndarray:
        return self.random.standard_normal(shape, dtype=np.float32)


def missing(library: str) -> bool:
    return importlib.util.find_spec(library) is None


def mlx_peers(case: CaseSettings) -> Iterator[Peer]:
    """Make the peers of MLX: mx.gather_qmm on MLX's CPU backend, with the same format and routing."""
    if missing("mlx"):
        yield Peer("mlx", "", "", skipped="not installed")
        return
    import mlx.core as mx

    mx.set_default_device(mx.cpu)
    settings = {"group_size": case.group_size, "bits": case.bits, "mode": case.mode}

    def prepare(dtype: Any) -> PeerProduct:
        rows, columns = (case.N, case.K) if case.transpose else (case.K, case.N)
        w = mx.array(case.random.integers(2**32, size=(case.experts, rows, columns * case.bits // 32), dtype=np.uint32))
        groups = (case.experts, rows, columns // case.group_size)
        if case.mode == "affine":
            scales = mx.array(case.random.uniform(0.01, 0.02, groups).astype(np.float32)).astype(dtype)
            biases = -scales * (2**case.bits - 1) / 2
        else:
            scales, biases = mx.array(case.random.integers(0x28, 0x38, groups, dtype=np.uint8)), None
        x = mx.array(case.activations(case.tokens, case.top if case.row_per_pair else 1, 1, case.K)).astype(dtype)
        mx.eval(w, scales, biases, x)

        def run(experts: np.ndarray) -> Any:
            indices = mx.array(experts)
            y = mx.gather_qmm(x[: len(experts)], w, scales, biases, rhs_indices=indices, transpose=case.transpose, **settings)
            mx.eval(y)
            return y

        def factors(experts: np.ndarray, row: int, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            expert, rows_of_x = int(experts.ravel()[row]), x.reshape(-1, case.K)
            if case.mode == "affine":
                wide = [scales[expert].astype(mx.float32), biases[expert].astype(mx.float32)]
            else:
                wide = [scales[expert], None]
            matrix = np.array(mx.dequantize(w[expert], *wide, **settings, dtype=mx.float32))
            matrix = matrix if case.transpose else matrix.T
            return np.array(rows_of_x[row if case.row_per_pair else row // case.top].astype(mx.float32)), matrix[outputs]

        return PeerProduct(run, lambda y: np.array(y.astype(mx.float32)).reshape(-1, case.N), factors)

    for name, dtype in (("float32", mx.float32), ("bfloat16", mx.bfloat16)):
        computes = f"mx.gather_qmm on the CPU, {name}: the same quantized product"
        yield Peer(f"mlx gather_qmm {name}", mx.__version__, computes, lambda dtype=dtype: prepare(dtype),
                   case.weights * (case.bits / 8 + 8 / case.group_size))  # fmt: skip


def torch_peers(case: CaseSettings) -> Iterator[Peer]:
    """Make the peers of PyTorch: dense products of the same size, whose weights are not quantized."""
    if missing("torch"):
        yield Peer("torch", "", "", skipped="not installed")
        return
    import torch
    from torch.nn.functional import linear

    torch.set_num_threads(case.threads)
    torch.set_grad_enabled(False)

    def values(parts: list[Any]) -> np.ndarray:
        return torch.cat(parts).float().numpy()

    def prepare_dense(dtype: Any) -> PeerProduct:
        w = torch.randn(case.N, case.K).to(dtype)
        x = torch.randn(case.tokens * case.top, case.K).to(dtype)
        return PeerProduct(
            lambda experts: [linear(x[: experts.size], w)],
            values,
            lambda experts, row, columns: (x[row].float().numpy(), w[columns].float().numpy()),
        )

    def prepare_int8() -> PeerProduct:
        w = torch.randint(-127, 128, (case.N, case.K), dtype=torch.int8)
        x = torch.randint(-127, 128, (case.tokens * case.top, case.K), dtype=torch.int8)
        return PeerProduct(
            lambda experts: torch._int_mm(x[: experts.size], w.t()),
            lambda y: y.numpy(),
            lambda experts, row, columns: (x[row].numpy(), w[columns].numpy()),
        )

    def prepare_experts(dtype: Any) -> PeerProduct:
        w = torch.empty(case.experts, case.N, case.K, dtype=dtype).uniform_(-1, 1)
        x = torch.randn(case.tokens * case.top, case.K).to(dtype)

        def run(experts: np.ndarray) -> list[Any]:
            first, parts = 0, []
            for expert, rows in zip(*np.unique(experts, return_counts=True), strict=True):
                parts.append(linear(x[first : first + rows], w[int(expert)]))
                first += rows
            return parts

        def factors(experts: np.ndarray, row: int, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            expert = int(np.sort(experts.ravel())[row])
            return x[row].float().numpy(), w[expert, columns].float().numpy()

        return PeerProduct(run, values, factors)

    computes = "one dense int8 matrix times all rows (torch._int_mm, oneDNN): int32 sums alone, no scales, no experts"
    yield Peer("torch dense int8", torch.__version__, computes, prepare_int8)
    for name, dtype in (("bfloat16", torch.bfloat16), ("float32", torch.float32)):
        size = dtype.itemsize
        computes = f"one dense {name} matrix times all rows: as many operations, no experts"
        yield Peer(f"torch dense {name}", torch.__version__, computes, lambda dtype=dtype: prepare_dense(dtype))
        computes = f"a loop over the experts' dense {name} matrices, rows already grouped"
        prepare = lambda dtype=dtype: prepare_experts(dtype)  # noqa: E731
        yield Peer(f"torch experts {name}", torch.__version__, computes, prepare, case.weights * size)


class Ggml:
    """The functions of ggml that a product needs, through its C interface. The library comes with llama-cpp-python."""

    TYPES: ClassVar = {"q4_0": 2, "q8_0": 8, "q2_K": 10, "q3_K": 11, "q4_K": 12, "q5_K": 13, "q6_K": 14, "mxfp4": 39}  # ggml_type
    FLOAT32, INT32 = 0, 26

    def __init__(self, threads: int) -> None:
        spec = importlib.util.find_spec("llama_cpp")
        assert spec is not None
        assert spec.origin is not None
        folder = Path(spec.origin).parent / "lib"
        self.libraries = [ctypes.CDLL(str(folder / f"lib{name}.so"), ctypes.RTLD_GLOBAL) for name in ("ggml-base", "ggml-cpu")]
        self.quiet = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)
        self.call("ggml_log_set", self.quiet, None)
        self.version = f"{importlib.metadata.version('llama-cpp-python')}, ggml {self.text('ggml_version')}"
        self.backend = self.pointer("ggml_backend_cpu_init")
        self.call("ggml_backend_cpu_set_n_threads", self.backend, ctypes.c_int(threads))
        self.device = self.pointer("ggml_backend_get_device", self.backend)

    def call(self, name: str, *arguments: Any, returns: Any = None) -> Any:
        for library in self.libraries:
            if hasattr(library, name):
                function = getattr(library, name)
                function.restype = returns
                return function(*arguments)
        raise AttributeError(f"ggml has no {name}")

    def pointer(self, name: str, *arguments: Any) -> ctypes.c_void_p:
        """Call a function that returns a pointer. The pointer keeps its type, because ctypes cuts a plain int to 32 bits."""
        return ctypes.c_void_p(self.call(name, *arguments, returns=ctypes.c_void_p))

    def text(self, name: str, *arguments: Any) -> str:
        return str(self.call(name, *arguments, returns=ctypes.c_char_p).decode())

    def context(self) -> ctypes.c_void_p:
        """Make a context for tensors and graphs, without memory for their data."""

        class Parameters(ctypes.Structure):
            _fields_ = [("size", ctypes.c_size_t), ("buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]

        return self.pointer("ggml_init", Parameters(1 << 20, None, True))

    def tensor(self, context: ctypes.c_void_p, kind: int, *shape: int) -> ctypes.c_void_p:
        """Make a tensor. Its first dimension is the contiguous one."""
        lengths = [ctypes.c_int64(length) for length in shape]
        return self.pointer(f"ggml_new_tensor_{len(shape)}d", context, ctypes.c_int(kind), *lengths)

    def store(self, tensor: ctypes.c_void_p, data: np.ndarray) -> None:
        data = np.ascontiguousarray(data)
        self.call("ggml_backend_tensor_set", tensor, data.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(0),
                  ctypes.c_size_t(data.nbytes))  # fmt: skip

    def weight_buffers(self) -> Iterator[ctypes.c_void_p]:
        """Yield the kinds of memory for weights, in the order in which llama.cpp tries them.

        The first ones repack weights for this processor, and the last one is plain memory.
        """
        registry = self.pointer("ggml_backend_dev_backend_reg", self.device)
        address = self.pointer("ggml_backend_reg_get_proc_address", registry, b"ggml_backend_dev_get_extra_bufts")
        if address:
            kinds = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)(address.value)(self.device)
            for kind in kinds or ():
                if not kind:
                    break
                yield ctypes.c_void_p(kind)
        yield self.pointer("ggml_backend_cpu_buffer_type")

    def supports(self, product: ctypes.c_void_p, w: ctypes.c_void_p, kind: ctypes.c_void_p) -> bool:
        """Whether the product can read w from that kind of memory."""
        empty = self.pointer("ggml_backend_buft_alloc_buffer", kind, ctypes.c_size_t(0))
        buffer = ctypes.c_void_p.from_address((w.value or 0) + 8)  # ggml_tensor.buffer follows .type
        buffer.value = empty.value
        supported = self.call("ggml_backend_dev_supports_op", self.device, product, returns=ctypes.c_bool)
        buffer.value = None
        self.call("ggml_backend_buffer_free", empty)
        return bool(supported)


class GgmlProduct:
    """The product ggml_mul_mat_id with float32 activations.

    The matrices of all experts have the same rows, and each begins with the row of its expert's number.
    """

    def __init__(self, ggml: Ggml, case: CaseSettings, format_name: str) -> None:
        self.ggml, self.case, self.kind = ggml, case, Ggml.TYPES[format_name]
        block = ggml.call("ggml_blck_size", ctypes.c_int(self.kind), returns=ctypes.c_int64)
        if case.K % block != 0:
            raise ValueError(f"K = {case.K} is not a multiple of {format_name}'s block of {block}")
        packed = self.quantized_matrix(format_name)
        self.x = case.activations(case.tokens, case.top if case.row_per_pair else 1, case.K)
        self.graphs: dict[int, tuple[ctypes.c_void_p, ...]] = {}

        context = ggml.context()
        self.w = ggml.tensor(context, self.kind, case.K, case.N, case.experts)
        product = self.product(ggml.context(), case.tokens)[-1]
        memory = next(memory for memory in ggml.weight_buffers() if ggml.supports(product, self.w, memory))
        self.memory = ggml.text("ggml_backend_buft_name", memory)
        if not ggml.pointer("ggml_backend_alloc_ctx_tensors_from_buft", context, memory):
            raise MemoryError("ggml could not allocate the weights")
        ggml.store(self.w, np.stack([np.roll(packed, -expert, axis=0) for expert in range(case.experts)]))

    def quantized_matrix(self, format_name: str) -> np.ndarray:
        """Quantize a matrix. The result has shape (N, bytes of a row), and self.matrix gets the values of its codes."""
        ggml, case = self.ggml, self.case
        plain = case.activations(case.N, case.K) * np.float32(0.05)
        row_bytes = ggml.call("ggml_row_size", ctypes.c_int(self.kind), ctypes.c_int64(case.K), returns=ctypes.c_size_t)
        packed, self.matrix = np.empty((case.N, row_bytes), np.uint8), np.empty_like(plain)
        address = [array.ctypes.data_as(ctypes.c_void_p) for array in (plain, packed, self.matrix)]
        shape = [ctypes.c_int64(length) for length in (0, case.N, case.K)]
        ggml.call("ggml_quantize_chunk", ctypes.c_int(self.kind), *address[:2], *shape, None, returns=ctypes.c_size_t)
        ggml.call(f"dequantize_row_{format_name}", *address[1:], ctypes.c_int64(plain.size))
        return packed

    def product(self, context: ctypes.c_void_p, tokens: int) -> tuple[ctypes.c_void_p, ...]:
        x = self.ggml.tensor(context, Ggml.FLOAT32, self.case.K, self.x.shape[1], tokens)
        experts = self.ggml.tensor(context, Ggml.INT32, self.case.top, tokens)
        return x, experts, self.ggml.pointer("ggml_mul_mat_id", context, self.w, x, experts)

    def graph(self, tokens: int) -> tuple[ctypes.c_void_p, ...]:
        if tokens not in self.graphs:
            ggml, context = self.ggml, self.ggml.context()
            x, experts, y = self.product(context, tokens)
            graph = ggml.pointer("ggml_new_graph", context)
            ggml.call("ggml_build_forward_expand", graph, y)
            ggml.pointer("ggml_backend_alloc_ctx_tensors", context, ggml.backend)
            ggml.store(x, self.x[:tokens])
            self.graphs[tokens] = (experts, y, graph)
        return self.graphs[tokens]

    def run(self, experts: np.ndarray) -> tuple[ctypes.c_void_p, int]:
        indices, y, graph = self.graph(len(experts))
        self.ggml.store(indices, experts.astype(np.int32))
        if self.ggml.call("ggml_backend_graph_compute", self.ggml.backend, graph, returns=ctypes.c_int) != 0:
            raise RuntimeError("ggml_backend_graph_compute failed")
        return y, experts.size

    def values(self, result: tuple[ctypes.c_void_p, int]) -> np.ndarray:
        y = np.empty((result[1], self.case.N), np.float32)
        self.ggml.call("ggml_backend_tensor_get", result[0], y.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(0),
                       ctypes.c_size_t(y.nbytes))  # fmt: skip
        return y

    def factors(self, experts: np.ndarray, row: int, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x = self.x.reshape(-1, self.case.K)[row if self.case.row_per_pair else row // self.case.top]
        return x, self.matrix[(columns + int(experts.ravel()[row])) % self.case.N]


def ggml_peers(case: CaseSettings) -> Iterator[Peer]:
    """Make the peers of llama.cpp: its product of experts, in its own formats with the same number of bits."""
    if missing("llama_cpp"):
        yield Peer("ggml", "", "", skipped="llama-cpp-python is not installed")
        return
    of_bits = {2: ["q2_K"], 3: ["q3_K"], 4: ["q4_0", "q4_K"], 5: ["q5_K"], 6: ["q6_K"], 8: ["q8_0"]}
    formats = {"affine": of_bits.get(case.bits, []), "mxfp4": ["mxfp4"]}.get(case.mode, [])
    if not formats or not case.transpose:
        yield Peer("ggml", "", "", skipped=f"has no such product ({case.mode}, {case.bits} bits)")
        return
    ggml = Ggml(case.threads)
    for name in formats:
        peer = Peer(f"ggml mul_mat_id {name}", ggml.version, "", weight_bytes=2 * case.weights * case.bits / 8)

        def prepare(peer: Peer = peer, name: str = name) -> PeerProduct:
            product = GgmlProduct(ggml, case, name)
            peer.computes = (
                f"llama.cpp's ggml_mul_mat_id: the same routing, weights in {name} (memory {product.memory}), float32 "
                "activations that it quantizes to 8 bits"
            )
            return PeerProduct(product.run, product.values, product.factors)

        peer.prepare = prepare
        yield peer


def available_memory() -> float:
    """Return the number of bytes that can be allocated without swapping."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return 1024 * float(lines["MemAvailable"].split()[0])


class CasePeers:
    LIBRARIES: ClassVar = {"mlx": mlx_peers, "torch": torch_peers, "ggml": ggml_peers}

    def __init__(self, settings: dict[str, Any]) -> None:
        self.case = CaseSettings(settings)
        self.products: dict[str, PeerProduct] = {}
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
            peer.error = product.error(experts, product.run(experts), self.case.random)
            self.products[peer.name] = product
        except Exception as error:  # the report says that the library cannot run the case, and the benchmark goes on
            peer.skipped = f"{type(error).__name__}: {error}".splitlines()[0]

    def expected_seconds(self, product: PeerProduct, limit: float) -> float:
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


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Answers get a copy of standard output. What libraries print goes to standard error, so it cannot mix with the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    current: CasePeers | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "case" in request:
                if np is None:
                    raise ImportError(numpy_error)
                current = CasePeers(request["case"])
                keys = ("name", "version", "computes", "error", "skipped")
                answer: dict[str, Any] = {"peers": [{key: getattr(peer, key) for key in keys} for peer in current.peers]}
            else:
                assert current is not None
                answer = {"seconds": current.run(request["run"])}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
