"""The arrays and settings that llama.cpp needs of a model, for the shapes that `gqmm bench mlx-lm` measures."""

from __future__ import annotations

import math
from typing import Any

from .gguf_file import Tensor

ARCHITECTURES = {"qwen3_moe": "qwen3moe", "qwen3": "qwen3", "gpt_oss": "gpt-oss"}


def _size(K: int) -> float:
    """Return the standard deviation of weights that are uniform within ±1/√K, as those of bench/mlx_lm/model.py are."""
    return 1 / math.sqrt(3 * K)


def _matrix(name: str, K: int, *others: int, experts_mxfp4: bool = False, size: float | None = None) -> Tensor:
    """Make a matrix of 4-bit weights. q4_K has blocks of 256 weights; other rows have q4_0, which has as many bits."""
    kind = "mxfp4" if experts_mxfp4 else "q4_K" if K % 256 == 0 else "q4_0"
    return Tensor(f"{name}.weight", kind, (K, *others), size=_size(K) if size is None else size)


def _floats(name: str, *shape: int, value: float) -> Tensor:
    return Tensor(name, "float32", shape, value=value)


def _attention(shape: dict[str, Any], block: str) -> list[Tensor]:
    hidden, q, kv = shape["hidden"], shape["heads"] * shape["head_dim"], shape["kv_heads"] * shape["head_dim"]
    tensors = [_matrix(f"{block}.attn_q", hidden, q), _matrix(f"{block}.attn_k", hidden, kv),
               _matrix(f"{block}.attn_v", hidden, kv), _matrix(f"{block}.attn_output", q, hidden),
               _floats(f"{block}.attn_norm.weight", hidden, value=1)]  # fmt: skip
    if shape["family"] == "gpt_oss":
        widths = {"attn_q": q, "attn_k": kv, "attn_v": kv, "attn_output": hidden}
        tensors += [_floats(f"{block}.{name}.bias", width, value=0) for name, width in widths.items()]
        tensors += [_floats(f"{block}.attn_sinks.weight", shape["heads"], value=0)]
        return [*tensors, _floats(f"{block}.post_attention_norm.weight", hidden, value=1)]
    tensors += [_floats(f"{block}.attn_{name}_norm.weight", shape["head_dim"], value=1) for name in "qk"]
    return [*tensors, _floats(f"{block}.ffn_norm.weight", hidden, value=1)]


def _feed_forward(shape: dict[str, Any], block: str) -> list[Tensor]:
    hidden, width, experts = shape["hidden"], shape["width"], shape["experts"]
    sizes = {"gate": (hidden, width), "up": (hidden, width), "down": (width, hidden)}
    if experts == 0:
        return [_matrix(f"{block}.ffn_{name}", *size) for name, size in sizes.items()]
    is_gpt_oss = shape["family"] == "gpt_oss"
    tensors = [_matrix(f"{block}.ffn_{name}_exps", *size, experts, experts_mxfp4=is_gpt_oss) for name, size in sizes.items()]
    tensors.append(Tensor(f"{block}.ffn_gate_inp.weight", "float32", (hidden, experts), size=_size(hidden)))
    if is_gpt_oss:
        tensors += [_floats(f"{block}.ffn_{name}_exps.bias", size[1], experts, value=0) for name, size in sizes.items()]
        tensors.append(_floats(f"{block}.ffn_gate_inp.bias", experts, value=0))
    return tensors


def tensors_of(shape: dict[str, Any]) -> list[Tensor]:
    hidden, vocabulary = shape["hidden"], shape["vocabulary"]
    tensors = [_matrix("token_embd", hidden, vocabulary, size=1.0), _matrix("output", hidden, vocabulary),
               _floats("output_norm.weight", hidden, value=1)]  # fmt: skip
    for i in range(shape["layers"]):
        tensors += _attention(shape, f"blk.{i}") + _feed_forward(shape, f"blk.{i}")
    return tensors


def settings_of(shape: dict[str, Any]) -> dict[str, Any]:
    name = ARCHITECTURES[shape["family"]]
    settings: dict[str, Any] = {
        "context_length": 131072,
        "vocab_size": shape["vocabulary"],
        "embedding_length": shape["hidden"],
        "block_count": shape["layers"],
        "feed_forward_length": shape["width"],
        "attention.head_count": shape["heads"],
        "attention.head_count_kv": shape["kv_heads"],
        "attention.key_length": shape["head_dim"],
        "attention.value_length": shape["head_dim"],
        "attention.layer_norm_rms_epsilon": 1e-6,
        "rope.freq_base": 1e6,
    }
    if shape["experts"] > 0:
        settings |= {
            "expert_count": shape["experts"],
            "expert_used_count": shape["top"],
            "expert_feed_forward_length": shape["width"],
        }
    if shape["family"] == "gpt_oss":
        settings |= {
            "attention.sliding_window": shape["window"],
            "rope.freq_base": 150000.0,
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 32.0,
            "rope.scaling.original_context_length": 4096,
        }
    return {"general.architecture": name, "general.name": shape["name"], "tokenizer.ggml.model": "no_vocab"} | {
        f"{name}.{key}": value for key, value in settings.items()
    }
