"""A Qwen3-MoE language model in NumPy: the whole forward pass. The caller gives it the operators for quantized products.

    model = Model("models/shakespeare-moe-affine4", gqmm)
    logits = model(tokens)  # float32 (T, vocabulary)

The folder holds a checkpoint in MLX's format: config.json and *.safetensors. The files are memory-mapped, and the operators read
the codes in place, also at odd addresses. Float scales and biases are cast to float32, and activations are float32. The operators
are gqmm, or any object with gqmm's functions gather_qmm, quantized_matmul and dequantize. gqmm computes the expert layer as one
call of moe_ffn; for other operators it is written out.
"""

import json
import mmap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "U32": "<u4", "U8": "u1"}


@dataclass
class QuantizedMatrix:
    """A quantized matrix, or one per expert. w has shape (…, N, K·bits/32), scales and biases (…, N, K/group_size)."""

    w: Any
    scales: Any
    biases: Any
    settings: dict[str, Any]  # group_size, bits and mode

    def map(self, function: Callable[[Any], Any]) -> "QuantizedMatrix":
        arrays = [None if array is None else function(array) for array in (self.w, self.scales, self.biases)]
        return QuantizedMatrix(*arrays, self.settings)


class Checkpoint:
    """The content of a model folder: its config, and its tensors as views of the mapped files."""

    def __init__(self, folder: str | Path):
        self.config = json.loads((Path(folder) / "config.json").read_text())
        self.tensors: dict[str, tuple[str, np.ndarray]] = {}
        for path in sorted(Path(folder).glob("*.safetensors")):
            with open(path, "rb") as file:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            start = 8 + int.from_bytes(data[:8], "little")
            for name, info in json.loads(data[8:start]).items():
                if name != "__metadata__":
                    view = np.ndarray(info["shape"], DTYPES[info["dtype"]], data, start + info["data_offsets"][0])
                    self.tensors[name] = (info["dtype"], view)

    def float32(self, name: str) -> np.ndarray:
        dtype, array = self.tensors[name]
        return (array.astype("<u4") << 16).view("<f4") if dtype == "BF16" else array.astype("<f4")

    def quantized(self, name: str) -> QuantizedMatrix:
        """Return a matrix. If config.json has settings for it, they replace the settings of the whole model."""
        common = self.config["quantization"]
        settings = common.get(name) or {key: value for key, value in common.items() if not isinstance(value, dict)}
        is_bytes = self.tensors[name + ".scales"][0] == "U8"  # the scales are E8M0 or E4M3
        return QuantizedMatrix(
            w=self.tensors[name + ".weight"][1],
            scales=self.tensors[name + ".scales"][1] if is_bytes else self.float32(name + ".scales"),
            biases=self.float32(name + ".biases") if name + ".biases" in self.tensors else None,
            settings={"mode": "affine", **settings},
        )


class Cache:
    """The keys and values of the tokens so far, each of shape (layers, heads, capacity, head_dim). Attention uses their dtype."""

    def __init__(self, config: dict[str, Any], capacity: int, dtype: type[np.floating] = np.float32):
        shape = (config["num_hidden_layers"], config["num_key_value_heads"], capacity, config["head_dim"])
        self.keys, self.values = np.empty(shape, dtype), np.empty(shape, dtype)
        self.length = 0


class Model:
    def __init__(self, folder: str | Path, operators: Any, as_weight: Callable[[np.ndarray], Any] = np.asarray):
        """Load the model. as_weight converts each array of the checkpoint once into an array that the operators take."""
        checkpoint = Checkpoint(folder)
        self.config, self.operators = checkpoint.config, operators
        names = {name.rpartition(".")[0] for name in checkpoint.tensors}
        matrices = {name: checkpoint.quantized(name) for name in names if name + ".scales" in checkpoint.tensors}
        self.embedding = matrices["model.embed_tokens"]
        self.matrices = {name: matrix.map(as_weight) for name, matrix in matrices.items()}
        self.norms = {name: checkpoint.float32(name + ".weight") for name in names - matrices.keys()}

    def __call__(self, tokens: Sequence[int], cache: Cache | None = None) -> np.ndarray:
        """Return the logits after each of the tokens. The tokens follow those in the cache and are added to it."""
        cache = cache or Cache(self.config, len(tokens))
        x = self.embed(np.asarray(tokens))
        for layer in range(self.config["num_hidden_layers"]):
            name = f"model.layers.{layer}."
            x = x + self.attention(name + "self_attn.", self.norm(name + "input_layernorm", x), cache, layer)
            x = x + self.experts(name + "mlp.", self.norm(name + "post_attention_layernorm", x))
        cache.length += len(tokens)
        return self.linear("model.embed_tokens" if self.config["tie_word_embeddings"] else "lm_head", self.norm("model.norm", x))

    def embed(self, tokens: np.ndarray) -> np.ndarray:
        rows = self.embedding.map(lambda array: array[tokens])
        return np.asarray(self.operators.dequantize(rows.w, rows.scales, rows.biases, **rows.settings), np.float32)

    def linear(self, name: str, x: np.ndarray) -> np.ndarray:
        matrix = self.matrices[name]
        return self.operators.quantized_matmul(x, matrix.w, matrix.scales, matrix.biases, **matrix.settings)

    def expert_linear(self, name: str, x: np.ndarray, experts: np.ndarray) -> np.ndarray:
        """Multiply x, (T, top or 1, 1, K), by the matrices of the experts, (T, top). The result is (T, top, 1, N)."""
        matrix, rows = self.matrices[name], np.arange(x.shape[0] * x.shape[1]).reshape(x.shape[:2])
        return self.operators.gather_qmm(
            x, matrix.w, matrix.scales, matrix.biases, lhs_indices=rows, rhs_indices=experts, **matrix.settings
        )

    def expert_weights(self, name: str) -> Any:
        """Return the matrices of the experts as one object. It refers to the arrays and copies nothing."""
        matrix = self.matrices[name]
        return self.operators.QuantizedWeights(matrix.w, matrix.scales, matrix.biases, **matrix.settings)

    def norm(self, name: str, x: np.ndarray) -> np.ndarray:
        return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + self.config["rms_norm_eps"]) * self.norms[name]

    def rope(self, x: np.ndarray, start: int) -> np.ndarray:
        """Rotate x, (heads, T, head_dim), by position. The two halves of head_dim are the coordinates of the rotation."""
        half = x.shape[-1] // 2
        frequencies = self.config["rope_theta"] ** (-np.arange(half) / half)
        angles = np.arange(start, start + x.shape[1])[:, None] * frequencies
        cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        a, b = x[..., :half], x[..., half:]
        return np.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)

    def attention(self, name: str, x: np.ndarray, cache: Cache, layer: int) -> np.ndarray:
        head_dim, start, end = self.config["head_dim"], cache.length, cache.length + len(x)

        def heads(projection: str) -> np.ndarray:  # (heads, T, head_dim)
            return self.linear(name + projection, x).reshape(len(x), -1, head_dim).swapaxes(0, 1)

        cache.keys[layer, :, start:end] = self.rope(self.norm(name + "k_norm", heads("k_proj")), start)
        cache.values[layer, :, start:end] = heads("v_proj")
        keys, values = cache.keys[layer, :, None, :end], cache.values[layer, :, None, :end]
        q = self.rope(self.norm(name + "q_norm", heads("q_proj")), start)
        q = q.reshape(len(keys), -1, len(x), head_dim)  # each key-value head serves a group of query heads
        scores = q @ keys.swapaxes(-1, -2) * head_dim**-0.5
        future = np.arange(end) > np.arange(start, end)[:, None]
        scores[..., future] = -np.inf
        y = (softmax(scores) @ values).astype(np.float32)  # (groups, heads of a group, T, head_dim)
        return self.linear(name + "o_proj", y.reshape(-1, len(x), head_dim).swapaxes(0, 1).reshape(len(x), -1))

    def experts(self, name: str, x: np.ndarray) -> np.ndarray:
        probabilities = softmax(self.linear(name + "gate", x))
        chosen = np.argsort(-probabilities, axis=-1, kind="stable")[:, : self.config["num_experts_per_tok"]]
        weights = np.take_along_axis(probabilities, chosen, axis=-1)
        if self.config["norm_topk_prob"]:
            weights = weights / weights.sum(axis=-1, keepdims=True)
        if hasattr(self.operators, "moe_ffn"):
            layers = (self.expert_weights(f"{name}switch_mlp.{part}_proj") for part in ("gate", "up", "down"))
            return self.operators.moe_ffn(x, chosen, weights, *layers)
        x = x[:, None, None]
        gate = self.expert_linear(name + "switch_mlp.gate_proj", x, chosen)
        up = self.expert_linear(name + "switch_mlp.up_proj", x, chosen)
        y = self.expert_linear(name + "switch_mlp.down_proj", silu(gate) * up, chosen)
        return (y[:, :, 0] * weights[..., None]).sum(axis=1)


def softmax(x: np.ndarray) -> np.ndarray:
    y = np.exp(x - x.max(axis=-1, keepdims=True))
    return y / y.sum(axis=-1, keepdims=True)


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-np.maximum(x, -80)))  # exp(80) is finite, and for smaller x the result is under 1e-32


def losses(model: Model, tokens: Sequence[int], window: int = 256) -> Iterator[np.ndarray]:
    """Yield the losses in nats, window by window. Each window starts with an empty cache, and token i predicts token i + 1."""
    for start in range(0, len(tokens) - 1, window):
        inputs, targets = tokens[start : start + window][: len(tokens) - 1 - start], tokens[start + 1 : start + window + 1]
        probabilities = softmax(model(inputs).astype(np.float64))
        yield -np.log(probabilities[np.arange(len(targets)), targets])


def generate(model: Model, prompt: Sequence[int], count: int, temperature: float, seed: int) -> Iterator[int]:
    """Sample tokens after the prompt. Each is the largest of the logits plus temperature times Gumbel noise.

    With temperature 0 the sampling is greedy.
    """
    random, cache, tokens = np.random.default_rng(seed), Cache(model.config, len(prompt) + count), prompt
    for _ in range(count):
        logits = model(tokens, cache)[-1]
        tokens = [int(np.argmax(logits + temperature * random.gumbel(size=logits.shape)))]
        yield tokens[0]
