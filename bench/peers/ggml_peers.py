"""llama.cpp's products of experts and its layers, in its own formats."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import numpy as np

from .case import CaseSettings
from .ggml import Ggml
from .layer import Matrices, PeerLayer, copies_of_layer
from .peer import Measured, Peer, PeerProduct, missing


class GgmlWeights:
    """The matrices of all experts in one of ggml's formats. They have the same rows, and each begins with that of its number."""

    def __init__(self, ggml: Ggml, format_name: str, plain: np.ndarray) -> None:
        self.ggml, self.kind = ggml, Ggml.TYPES[format_name]
        self.N, self.K = plain.shape
        block = ggml.call("ggml_blck_size", ctypes.c_int(self.kind), returns=ctypes.c_int64)
        if self.K % block != 0:
            raise ValueError(f"rows of {self.K} weights are not a multiple of {format_name}'s block of {block}")
        row_bytes = ggml.call("ggml_row_size", ctypes.c_int(self.kind), ctypes.c_int64(self.K), returns=ctypes.c_size_t)
        self.packed, self.plain = np.empty((self.N, row_bytes), np.uint8), np.empty_like(plain)
        address = [array.ctypes.data_as(ctypes.c_void_p) for array in (plain, self.packed, self.plain)]
        shape = [ctypes.c_int64(length) for length in (0, self.N, self.K)]
        ggml.call("ggml_quantize_chunk", ctypes.c_int(self.kind), *address[:2], *shape, None, returns=ctypes.c_size_t)
        ggml.call(f"dequantize_row_{format_name}", *address[1:], ctypes.c_int64(plain.size))
        self.memory = ""
        """The name of the kind of memory, once there is a tensor."""

    def rows(self, expert: int, which: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Return rows of an expert's matrix, with the values of its codes."""
        return self.plain[(np.arange(self.N)[which] + expert) % self.N]

    def tensor(self, experts: int | None) -> ctypes.c_void_p:
        """Make a tensor of so many experts in the memory that llama.cpp would choose. None stands for a single plain matrix."""
        ggml, context, scratch = self.ggml, self.ggml.context(), self.ggml.context()
        x = ggml.tensor(scratch, Ggml.FLOAT32, self.K, 1, 1)
        if experts is None:
            w = ggml.tensor(context, self.kind, self.K, self.N)
            product = ggml.pointer("ggml_mul_mat", scratch, w, x)
        else:
            w = ggml.tensor(context, self.kind, self.K, self.N, experts)
            product = ggml.pointer("ggml_mul_mat_id", scratch, w, x, ggml.tensor(scratch, Ggml.INT32, 1, 1))
        memory = next(memory for memory in ggml.weight_buffers() if ggml.supports(product, w, memory))
        self.memory = ggml.text("ggml_backend_buft_name", memory)
        if not ggml.pointer("ggml_backend_alloc_ctx_tensors_from_buft", context, memory):
            raise MemoryError("ggml could not allocate the weights")
        ggml.store(w, np.stack([np.roll(self.packed, -expert, axis=0) for expert in range(experts or 1)]))
        ggml.call("ggml_free", scratch)
        return w


class GgmlProduct:
    """The product ggml_mul_mat_id with float32 activations."""

    def __init__(self, ggml: Ggml, case: CaseSettings, format_name: str) -> None:
        self.ggml, self.case = ggml, case
        self.weights = GgmlWeights(ggml, format_name, case.activations(case.N, case.K) * np.float32(0.05))
        self.w = self.weights.tensor(case.experts)
        self.x = case.activations(case.tokens, case.top if case.row_per_pair else 1, case.K)
        self.graphs: dict[int, tuple[ctypes.c_void_p, ...]] = {}

    def graph(self, tokens: int) -> tuple[ctypes.c_void_p, ...]:
        if tokens not in self.graphs:
            ggml, context = self.ggml, self.ggml.context()
            x = ggml.tensor(context, Ggml.FLOAT32, self.case.K, self.x.shape[1], tokens)
            experts = ggml.tensor(context, Ggml.INT32, self.case.top, tokens)
            y = ggml.pointer("ggml_mul_mat_id", context, self.w, x, experts)
            graph = ggml.pointer("ggml_new_graph", context)
            ggml.call("ggml_build_forward_expand", graph, y)
            ggml.pointer("ggml_backend_alloc_ctx_tensors", context, ggml.backend)
            ggml.store(x, self.x[:tokens])
            self.graphs[tokens] = (experts, y, graph)
        return self.graphs[tokens]

    def run(self, experts: np.ndarray) -> tuple[ctypes.c_void_p, int]:
        indices, y, graph = self.graph(len(experts))
        self.ggml.store(indices, experts.astype(np.int32))
        self.ggml.compute(graph)
        return y, experts.size

    def values(self, result: tuple[ctypes.c_void_p, int]) -> np.ndarray:
        return self.ggml.load(result[0], (result[1], self.case.N))

    def factors(self, experts: np.ndarray, row: int, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x = self.x.reshape(-1, self.case.K)[row if self.case.row_per_pair else row // self.case.top]
        return x, self.weights.rows(int(experts.ravel()[row]), columns)


class GgmlLayer(PeerLayer):
    """llama.cpp's graph of a layer (build_moe_ffn and build_ffn), with float32 activations.

    All graphs lie in the same memory, because only one of them runs at a time.
    """

    def __init__(self, ggml: Ggml, case: CaseSettings, format_name: str, copies: int) -> None:
        super().__init__(case, copies)
        self.ggml = ggml
        self.expert_weights = self.projections(format_name, case.N)
        self.experts = [[weights.tensor(case.experts) for weights in self.expert_weights] for _ in range(copies)]
        self.shared_weights = self.projections(format_name, self.inner_shared) if case.shared_experts > 0 else []
        self.shared = [[weights.tensor(None) for weights in self.shared_weights] for _ in range(copies)]
        self.memory = " and ".join(sorted({weights.memory for weights in self.expert_weights + self.shared_weights}))
        self.bias_tensors = self.make_bias_tensors()
        self.allocator = ggml.pointer("ggml_gallocr_new", ggml.pointer("ggml_backend_cpu_buffer_type"))
        self.graphs: dict[tuple[int, int], tuple[ctypes.c_void_p, ...]] = {}
        self.tokens_in_memory = 0
        self.graph(case.tokens, 0)  # the largest graph comes first, so that the memory of all never moves

    def projections(self, format_name: str, inner: int) -> list[GgmlWeights]:
        shapes = ((inner, self.case.K), (inner, self.case.K), (self.case.K, inner))
        return [GgmlWeights(self.ggml, format_name, self.case.activations(*shape) * np.float32(0.05)) for shape in shapes]

    def make_bias_tensors(self) -> list[ctypes.c_void_p]:
        if self.biases is None:
            return []
        context = self.ggml.context()
        tensors = [self.ggml.tensor(context, Ggml.FLOAT32, *reversed(bias.shape)) for bias in self.biases]
        self.ggml.pointer("ggml_backend_alloc_ctx_tensors", context, self.ggml.backend)
        for tensor, bias in zip(tensors, self.biases, strict=True):
            self.ggml.store(tensor, bias)
        return tensors

    def activate(self, context: ctypes.c_void_p, gate: ctypes.c_void_p, up: ctypes.c_void_p) -> ctypes.c_void_p:
        alpha, limit, bias = self.activation.alpha, self.activation.limit, self.activation.bias
        if self.activation.is_plain:
            return self.ggml.pointer("ggml_swiglu_split", context, gate, up)
        if limit is None or bias != 1:
            raise ValueError(f"ggml has no {self.activation}")
        return self.ggml.pointer("ggml_swiglu_oai", context, gate, up, ctypes.c_float(alpha), ctypes.c_float(limit))

    def sum_of_experts(
        self, context: ctypes.c_void_p, graph: ctypes.c_void_p, x: ctypes.c_void_p, tokens: int, copy: int
    ) -> tuple[ctypes.c_void_p, ...]:
        """Return the tensors of experts, router weights and their weighted sum (build_moe_ffn)."""
        ggml, K, top = self.ggml, self.case.K, self.case.top
        experts, weights = ggml.tensor(context, Ggml.INT32, top, tokens), ggml.tensor(context, Ggml.FLOAT32, 1, top, tokens)
        for operand in (x, experts, weights):
            ggml.call("ggml_set_input", operand)
            ggml.call("ggml_set_output", operand)  # so that nothing is written over it, and it is there for the next call

        def product(which: int, rows: ctypes.c_void_p) -> ctypes.c_void_p:
            y = ggml.pointer("ggml_mul_mat_id", context, self.experts[copy][which], rows, experts)
            return ggml.pointer("ggml_add_id", context, y, self.bias_tensors[which], experts) if self.bias_tensors else y

        rows = ggml.pointer("ggml_reshape_3d", context, x, *(ctypes.c_int64(length) for length in (K, 1, tokens)))
        up = product(1, rows)
        h = self.activate(context, product(0, rows), up)
        slots = ggml.pointer("ggml_mul", context, product(2, h), weights)
        ggml.call("ggml_build_forward_expand", graph, slots)
        views = []
        for slot in range(top):
            shape, strides = (ctypes.c_int64(K), ctypes.c_int64(tokens)), (4 * K * top, 4 * K * slot)
            views.append(ggml.pointer("ggml_view_2d", context, slots, *shape, *(ctypes.c_size_t(stride) for stride in strides)))
            ggml.call("ggml_build_forward_expand", graph, views[-1])
        y = views[0]
        for view in views[1:]:
            y = ggml.pointer("ggml_add", context, y, view)
            ggml.call("ggml_build_forward_expand", graph, y)
        return experts, weights, ggml.pointer("ggml_cont", context, y) if top == 1 else y

    def graph(self, tokens: int, copy: int) -> tuple[ctypes.c_void_p, ...]:
        if (tokens, copy) not in self.graphs:
            ggml, context = self.ggml, self.ggml.context()
            graph = ggml.pointer("ggml_new_graph", context)
            x = ggml.tensor(context, Ggml.FLOAT32, self.case.K, tokens)
            experts, weights, y = self.sum_of_experts(context, graph, x, tokens, copy)
            if self.shared_weights:
                gate, up, down = self.shared[copy]
                up = ggml.pointer("ggml_mul_mat", context, up, x)
                h = self.activate(context, ggml.pointer("ggml_mul_mat", context, gate, x), up)
                y = ggml.pointer("ggml_add", context, y, ggml.pointer("ggml_mul_mat", context, down, h))
            ggml.call("ggml_set_output", y)
            ggml.call("ggml_build_forward_expand", graph, y)
            if not ggml.call("ggml_gallocr_alloc_graph", self.allocator, graph, returns=ctypes.c_bool):
                raise MemoryError("ggml could not allocate the graph")
            self.graphs[tokens, copy] = (x, weights, experts, y, graph)
        return self.graphs[tokens, copy]

    def compute(self, experts: np.ndarray) -> tuple[ctypes.c_void_p, int]:
        tokens = len(experts)
        x, weights, indices, y, graph = self.graph(tokens, self.copy)
        if tokens != self.tokens_in_memory:  # graphs of as many tokens have their operands at the same places
            self.ggml.store(x, self.x[:tokens])
            self.ggml.store(weights, self.router_weights[:tokens])
            self.tokens_in_memory = tokens
        self.ggml.store(indices, experts.astype(np.int32))
        self.ggml.compute(graph)
        return y, tokens

    def values(self, result: tuple[ctypes.c_void_p, int]) -> np.ndarray:
        return self.ggml.load(result[0], (result[1], self.case.K))

    def matrices(self, expert: int | None) -> Matrices:
        gate, up, down = self.expert_weights if expert is not None else self.shared_weights
        return gate.rows(expert or 0), up.rows(expert or 0), down.rows(expert or 0)


def ggml_peers(case: CaseSettings) -> Iterator[Peer]:
    """Make the peers of llama.cpp: its product of experts or its layer, in its own formats with the same number of bits."""
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
        yield ggml_layer(ggml, case, name) if case.whole else ggml_product(ggml, case, name)


def ggml_product(ggml: Ggml, case: CaseSettings, name: str) -> Peer:
    peer = Peer(f"ggml mul_mat_id {name}", ggml.version, "", weight_bytes=2 * case.weights * case.bits / 8)

    def prepare() -> Measured:
        product = GgmlProduct(ggml, case, name)
        peer.computes = (
            f"llama.cpp's ggml_mul_mat_id: the same routing, weights in {name} (memory {product.weights.memory}), float32 "
            "activations that it quantizes to 8 bits"
        )
        return PeerProduct(product.run, product.values, product.factors)

    peer.prepare = prepare
    return peer


def ggml_layer(ggml: Ggml, case: CaseSettings, name: str) -> Peer:
    layer_bytes = case.bytes_of(case.weights)
    copies = copies_of_layer(case, layer_bytes)
    # A third of a layer is there twice while it is stored.
    peer = Peer(f"ggml layer {name}", ggml.version, "", weight_bytes=(copies + 1 / 3) * layer_bytes)

    def prepare() -> Measured:
        layer = GgmlLayer(ggml, case, name, copies)
        peer.computes = (
            f"llama.cpp's graph: ggml_mul_mat_id for gate, up and down, its fused activation, the weighted sum by ggml_mul and "
            f"ggml_add; weights in {name} (memory {layer.memory}), float32 activations that the products quantize to 8 bits"
        )
        return layer

    peer.prepare = prepare
    return peer
