"""Whole models whose logits must have the same bits on every way to them, and a program that prints digests of these logits."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import gqmm
import gqmm.mlx as drop_in
import mlx.core as mx
import mlx_lm
import numpy as np
from families import FAMILIES
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm_support import build, checkpoints, evaluated

# Families with operators that they must run: one for each kind of attention, which are grouped heads, MLA, sliding windows with
# sinks, the gated delta rule, with a factor for each head and for each element, and state spaces; then models without experts,
# which have other norms and activations. DeepSeek's router is a dense product.
_OPERATORS = {
    "qwen3_moe": ("gather_qmm", "rms_norm", "rope", "softmax", "scaled_dot_product_attention"),
    "deepseek_v3": ("gather_qmm", "matmul", "scaled_dot_product_attention"),
    "gpt_oss": ("scaled_dot_product_attention", "softmax"),
    "qwen3_next": ("gated_delta_update", "scaled_dot_product_attention"),
    "qwen3_5": ("gated_delta_update", "scaled_dot_product_attention"),
    "kimi_linear": ("gated_delta_update", "matmul"),
    "nemotron_h": ("ssm_update", "scaled_dot_product_attention"),
    "granitemoehybrid": ("ssm_update", "scaled_dot_product_attention"),
    "qwen3": ("quantized_matmul", "activations", "rms_norm", "rope"),
    "stablelm": ("matmul", "layer_norm", "activations", "rope"),
    "gpt2": ("matmul", "layer_norm", "activations"),
    "olmo2": ("matmul", "activations", "rms_norm", "rope"),
    "starcoder2": ("quantized_matmul", "layer_norm", "activations", "rope"),
    "nemotron": ("quantized_matmul", "activations", "rope"),
    "falcon_h1": ("quantized_matmul", "ssm_update", "rms_norm", "rope"),
    "mamba2": ("quantized_matmul", "ssm_update", "activations", "rms_norm"),
}
RANDOM = {name: (FAMILIES[name], operators) for name, operators in _OPERATORS.items()}
MODELS = [*RANDOM, *checkpoints()]  # names of random models, and pytest parameters with folders of checkpoints
THREADS = (1, 2, 7)
PROMPT = 70


def model_of(source: str | Path, dtype: Any = mx.bfloat16) -> Any:
    """Make a random model of this type, or load a checkpoint with the types that it has."""
    if isinstance(source, Path):
        return mlx_lm.load(str(source))[0]
    model = build(RANDOM[source][0])
    model.set_dtype(dtype)
    return model


def operators_of(source: str | Path) -> tuple[str, ...]:
    """Return names of operators that the model must run."""
    return ("gather_qmm", "quantized_matmul", "scaled_dot_product_attention") if isinstance(source, Path) else RANDOM[source][1]


def prompt(requests: int = 1, length: int = PROMPT, seed: int = 3) -> mx.array:
    """Return random tokens, which all vocabularies have."""
    return mx.random.randint(0, 64, (requests, length), key=mx.random.key(seed))


def logits_in_chunks(model: Any, tokens: mx.array, chunk: int, cache: Any) -> np.ndarray:
    """Return the logits of all tokens of a prompt that is evaluated in chunks."""
    return np.concatenate(
        [evaluated(model(tokens[:, i : i + chunk], cache=cache)) for i in range(0, tokens.shape[1], chunk)], axis=1
    )


def digests() -> dict[str, list[str]]:
    """Return, by the names of the models, a digest of a prompt's logits for each number of threads."""
    sources = [source if isinstance(source, str) else source.values[0] for source in MODELS]
    result = {}
    with drop_in.install():
        for source in filter(None, sources):
            model = model_of(source)
            result[str(source)] = []
            for threads in THREADS:
                gqmm.set_num_threads(threads)
                logits = logits_in_chunks(model, prompt(), PROMPT, make_prompt_cache(model))
                result[str(source)].append(hashlib.sha256(logits.tobytes()).hexdigest())
    return result


if __name__ == "__main__":
    print(json.dumps(digests()))
