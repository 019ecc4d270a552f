"""mlx-lm's families of mixture-of-experts models, tiny and with random weights: the logits are those of stock MLX."""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mlx_lm")
pytest.importorskip("gqmm.mlx")

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear
from mlx_lm.utils import quantize_model
from mlx_lm_support import assert_close, both, evaluated

pytestmark = pytest.mark.mlx

VOCABULARY, BATCH, LENGTH, LAYERS = 192, 2, 24, 2
AFFINE4 = {"mode": "affine", "bits": 4, "group_size": 64}

COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 3,  # times BATCH × LENGTH tokens is more than 64, from where on mlx-lm sorts by expert
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 256,
}


@dataclass
class Family:
    module: str  # of mlx_lm.models
    config: dict[str, Any]
    quantization: dict[str, Any] | None  # None leaves the weights as they are
    others: dict[str, Any] | None = None  # the format of all layers but the experts', where it is another

    @property
    def products(self) -> list[str]:
        return ["gather_qmm", "quantized_matmul"] if self.quantization else ["gather_mm"]


MIXTRAL = {"intermediate_size": 192, "num_local_experts": 8}
QWEN3_MOE = {
    "intermediate_size": 192,
    "moe_intermediate_size": 64,
    "num_experts": 16,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [0],  # a dense layer before the sparse one
    "head_dim": 32,
    "tie_word_embeddings": False,
    "norm_topk_prob": True,
}

FAMILIES = {
    "mixtral": Family("mixtral", MIXTRAL, AFFINE4),
    "mixtral, not quantized": Family("mixtral", MIXTRAL, None),
    "qwen2_moe": Family(
        "qwen2_moe",
        {
            "intermediate_size": 192,
            "moe_intermediate_size": 64,
            "shared_expert_intermediate_size": 192,
            "num_experts": 10,
        },
        AFFINE4,
    ),
    "qwen3_moe": Family("qwen3_moe", QWEN3_MOE, AFFINE4),
    "qwen3_moe, nvfp4": Family("qwen3_moe", QWEN3_MOE, {"mode": "nvfp4", "bits": 4, "group_size": 16}),
    # Its attention multiplies by the quantized matrices of each head, one of them from both sides.
    "deepseek_v3": Family(
        "deepseek_v3",
        {
            "intermediate_size": 192,
            "moe_intermediate_size": 64,
            "n_shared_experts": 1,
            "n_routed_experts": 16,
            "routed_scaling_factor": 2.5,
            "kv_lora_rank": 64,
            "q_lora_rank": 64,
            "qk_rope_head_dim": 16,
            "qk_nope_head_dim": 64,
            "v_head_dim": 64,
            "n_group": 4,
            "topk_group": 2,
            "first_k_dense_replace": 1,
        },
        AFFINE4,
    ),
    "gpt_oss": Family(
        "gpt_oss",
        {
            "intermediate_size": 96,
            "num_local_experts": 8,
            "head_dim": 32,
            "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        {"mode": "mxfp4", "bits": 4, "group_size": 32},
        others={"mode": "affine", "bits": 8, "group_size": 64},
    ),
    "olmoe": Family("olmoe", {"intermediate_size": 64, "num_experts": 16}, {"mode": "affine", "bits": 6, "group_size": 32}),
    "glm4_moe": Family(
        "glm4_moe",
        {
            "intermediate_size": 192,
            "moe_intermediate_size": 64,
            "norm_topk_prob": True,
            "n_group": 1,
            "topk_group": 1,
            "head_dim": 32,
            "n_shared_experts": 1,
            "n_routed_experts": 12,
            "routed_scaling_factor": 1.5,
            "first_k_dense_replace": 1,
            "rope_scaling": None,
            "use_qk_norm": True,
            "tie_word_embeddings": False,
            "attention_bias": True,
            "partial_rotary_factor": 0.5,
        },
        {"mode": "mxfp8", "bits": 8, "group_size": 32},
    ),
    "minimax": Family(
        "minimax",
        {"intermediate_size": 64, "num_local_experts": 16, "shared_intermediate_size": 0, "rotary_dim": 16},
        {"mode": "affine", "bits": 3, "group_size": 64},
    ),
    "granitemoe": Family(
        "granitemoe",
        {
            "intermediate_size": 64,
            "num_local_experts": 10,
            "logits_scaling": 6.0,
            "attention_multiplier": 0.125,
            "embedding_multiplier": 12.0,
            "residual_multiplier": 0.22,
            "attention_bias": False,
        },
        AFFINE4,
    ),
}


def build(family: Family) -> nn.Module:
    module = importlib.import_module(f"mlx_lm.models.{family.module}")
    config = {"model_type": family.module, **COMMON, **family.config}
    mx.random.seed(23)
    model = module.Model(module.ModelArgs.from_dict(config))

    def random(parameter: mx.array) -> mx.array:
        """In place of what starts constant: all zeros, as biases and some routers do, or all ones, as norms do."""
        if mx.any(parameter != parameter.reshape(-1)[0]).item():
            return parameter
        size = 0.1 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5
        return parameter + size * mx.random.normal(parameter.shape)

    model.update(tree_unflatten([(name, random(parameter)) for name, parameter in tree_flatten(model.parameters())]))
    if family.others:
        # As in the checkpoints of mlx-community: the experts as they were published, and all else in 8 bits.
        nn.quantize(model, **family.quantization, class_predicate=lambda _, layer: isinstance(layer, SwitchLinear))
        nn.quantize(model, **family.others)
    elif family.quantization:
        quantize_model(model, {}, **family.quantization)
    model.eval()
    mx.eval(model.parameters())
    return model


def terms(model: nn.Module) -> int:
    """How many products of two numbers are summed on the way from a token to a logit: K of each matrix."""
    total = 0
    for _, layer in model.named_modules():
        if "scales" in layer:
            total += layer.scales.shape[-1] * layer.group_size
        elif isinstance(layer, (nn.Linear, SwitchLinear)):
            total += layer.weight.shape[-1]
    return total


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_of_a_batch_of_prompts_and_of_the_tokens_after_it_are_those_of_stock(name: str) -> None:
    family = FAMILIES[name]
    model = build(family)
    if family.quantization:
        experts = [layer for _, layer in model.named_modules() if isinstance(layer, QuantizedSwitchLinear)]
        formats = {(layer.mode, layer.bits, layer.group_size) for layer in experts}
        assert tuple(family.quantization.values()) in formats  # some families' predicates give a part of them 8 bits
    tokens = mx.random.randint(0, VOCABULARY, (BATCH, LENGTH + 3), key=mx.random.key(7))

    def logits() -> np.ndarray:
        cache = make_prompt_cache(model)
        pieces = [tokens[:, :LENGTH], *(tokens[:, position : position + 1] for position in range(LENGTH, LENGTH + 3))]
        return np.concatenate([evaluated(model(piece, cache=cache)) for piece in pieces], axis=1)

    stock, ours = both(logits, *family.products)
    # A sum of K random terms is a random walk: after k of them it is √(k/K) of its size in the end. Each addition rounds it by up
    # to 2⁻²⁴ of its size, in the root mean square by 2⁻²⁴/√3 of it, and all together by 2⁻²⁴·√(K/6) of the result. Norms and
    # residual sums hand a matrix's relative error on to the logits, no greater than it was, where the errors of all matrices
    # meet: 2⁻²⁴·√(ΣK/6) on each of the two sides. No more than one logit in 500 million is 6 root mean squares off.
    tolerance = 6 * math.sqrt(2) * 2**-24 * math.sqrt(terms(model) / 6) * float(np.sqrt(np.mean(stock**2)))
    assert_close(ours, stock, tolerance)
