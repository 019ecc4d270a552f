"""llama.cpp's products of experts, in its own formats."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import numpy as np

from .case import CaseSettings
from .ggml import Ggml
from .peer import Peer, PeerProduct, missing


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
