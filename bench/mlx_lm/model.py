"""Models of mlx-lm with random weights, in the quantized form that mlx-lm gives them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_map
from mlx_lm.models import gpt_oss, nemotron_h, qwen3, qwen3_moe, qwen3_next
from mlx_lm.models.switch_layers import QuantizedSwitchLinear

# The rope of gpt-oss, as its checkpoint has it.
YARN = {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "original_max_position_embeddings": 4096}
ROOT_MEAN_SQUARE_OF_FLOAT4 = 2.93  # of E2M1's 16 codes, each as frequent


@dataclass(frozen=True)
class LinearLayers:
    """The layers with a state. Every `attention_every`th layer has attention all the same. A model without them has zeros."""

    attention_every: int = 0
    key_heads: int = 0
    value_heads: int = 0
    key_dim: int = 0
    value_dim: int = 0
    kernel: int = 0

    def holds(self, layer: int) -> bool:
        """Whether the layer is one of them."""
        return self.attention_every > 0 and (layer + 1) % self.attention_every != 0


@dataclass(frozen=True)
class Shape:
    """A model's shape. A dense model has 0 experts, and one without windows has window = 0."""

    name: str
    family: str
    layers: int
    hidden: int
    experts: int
    top: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    window: int
    vocabulary: int
    linear: LinearLayers

    @staticmethod
    def of(request: dict[str, Any]) -> Shape:
        """Return the shape that a request has."""
        return Shape(**request | {"linear": LinearLayers(**request["linear"])})


def _qwen3_moe(shape: Shape) -> Any:
    return qwen3_moe.Model(
        qwen3_moe.ModelArgs(
            model_type=shape.family,
            num_hidden_layers=shape.layers,
            hidden_size=shape.hidden,
            intermediate_size=shape.width,  # the width of dense layers, which this model does not have
            moe_intermediate_size=shape.width,
            num_experts=shape.experts,
            num_experts_per_tok=shape.top,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads,
            head_dim=shape.head_dim,
            vocab_size=shape.vocabulary,
            decoder_sparse_step=1,
            mlp_only_layers=[],
            rms_norm_eps=1e-6,
            rope_theta=1e6,
            tie_word_embeddings=False,
            max_position_embeddings=40960,
            norm_topk_prob=True,
        )
    )


def _qwen3(shape: Shape) -> Any:
    return qwen3.Model(
        qwen3.ModelArgs(
            model_type=shape.family,
            num_hidden_layers=shape.layers,
            hidden_size=shape.hidden,
            intermediate_size=shape.width,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads,
            head_dim=shape.head_dim,
            vocab_size=shape.vocabulary,
            rms_norm_eps=1e-6,
            rope_theta=1e6,
            tie_word_embeddings=False,
            max_position_embeddings=40960,
        )
    )


def _gpt_oss(shape: Shape) -> Any:
    return gpt_oss.Model(
        gpt_oss.ModelArgs(
            num_hidden_layers=shape.layers,
            hidden_size=shape.hidden,
            intermediate_size=shape.width,
            num_local_experts=shape.experts,
            num_experts_per_tok=shape.top,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads,
            head_dim=shape.head_dim,
            vocab_size=shape.vocabulary,
            sliding_window=shape.window,
            rope_scaling=YARN,
        )
    )


def _qwen3_next(shape: Shape) -> Any:
    linear = shape.linear
    return qwen3_next.Model(
        qwen3_next.ModelArgs(
            model_type=shape.family,
            num_hidden_layers=shape.layers,
            hidden_size=shape.hidden,
            intermediate_size=shape.width,  # the width of dense layers, which this model does not have
            moe_intermediate_size=shape.width,
            shared_expert_intermediate_size=shape.width,
            num_experts=shape.experts,
            num_experts_per_tok=shape.top,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads,
            head_dim=shape.head_dim,
            full_attention_interval=linear.attention_every,
            linear_num_key_heads=linear.key_heads,
            linear_num_value_heads=linear.value_heads,
            linear_key_head_dim=linear.key_dim,
            linear_value_head_dim=linear.value_dim,
            linear_conv_kernel_dim=linear.kernel,
            vocab_size=shape.vocabulary,
            decoder_sparse_step=1,
            mlp_only_layers=[],
            partial_rotary_factor=0.25,
            rms_norm_eps=1e-6,
            rope_theta=1e7,
            max_position_embeddings=262144,
            norm_topk_prob=True,
        )
    )


def _nemotron_h(shape: Shape) -> Any:
    """Make blocks of Mamba-2 or attention, each with a block of experts behind it. Both together count as a layer."""
    linear = shape.linear
    model = nemotron_h.Model(
        nemotron_h.ModelArgs(
            model_type=shape.family,
            hybrid_override_pattern=[
                block for layer in range(shape.layers) for block in ("M" if linear.holds(layer) else "*", "E")
            ],
            hidden_size=shape.hidden,
            intermediate_size=shape.width,  # the width of dense layers, which this model does not have
            moe_intermediate_size=shape.width,
            moe_shared_expert_intermediate_size=2 * shape.width,
            n_routed_experts=shape.experts,
            n_shared_experts=1,
            num_experts_per_tok=shape.top,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads,
            head_dim=shape.head_dim,
            mamba_num_heads=linear.value_heads,
            mamba_head_dim=linear.value_dim,
            ssm_state_size=linear.key_dim,
            n_groups=linear.key_heads,
            conv_kernel=linear.kernel,
            vocab_size=shape.vocabulary,
            n_group=1,
            topk_group=1,
            norm_topk_prob=True,
            routed_scaling_factor=2.5,
            layer_norm_epsilon=1e-5,
            max_position_embeddings=262144,
            attention_bias=False,
            mamba_proj_bias=False,
            mlp_bias=False,
            use_bias=False,
            use_conv_bias=True,
        )
    )
    for layer in model.layers[1::2]:  # mlx-lm makes routers of zeros, with which all tokens have the same experts
        layer.mixer.gate.weight = mx.random.normal((shape.experts, shape.hidden), scale=shape.hidden**-0.5)
    return model


FAMILIES: dict[str, Callable[[Shape], Any]] = {
    "qwen3_moe": _qwen3_moe,
    "qwen3": _qwen3,
    "gpt_oss": _gpt_oss,
    "qwen3_next": _qwen3_next,
    "nemotron_h": _nemotron_h,
}


def _quantize(model: Any) -> None:
    """Quantize as mlx-lm does it: 4 bits, the router 8; affine in groups of 64, and gpt-oss's experts mxfp4."""
    mxfp4_experts = isinstance(model, gpt_oss.Model)
    predicate = getattr(model, "quant_predicate", lambda *_: True)

    def quantized(path: str, module: Any) -> Any:
        if not hasattr(module, "to_quantized"):
            return False
        if mxfp4_experts and ".experts." in path:
            return {"group_size": 32, "bits": 4, "mode": "mxfp4"}
        return predicate(path, module)

    nn.quantize(model, group_size=64, bits=4, class_predicate=quantized)


def _draw(module: Any, amplitude: float, random: np.random.Generator) -> None:
    """Give a quantized layer random codes, and scales with which its weights have this amplitude.

    A layer of random floats would take minutes to quantize, and a model of them more memory than a machine has.
    """
    module.weight = mx.array(random.integers(2**32, size=module.weight.shape, dtype=np.uint32))
    if module.mode == "affine":
        module.scales = mx.full(module.scales.shape, 2 * amplitude / (2**module.bits - 1))
        module.biases = mx.full(module.biases.shape, -amplitude)
    else:
        size = amplitude / math.sqrt(3) / ROOT_MEAN_SQUARE_OF_FLOAT4
        module.scales = mx.full(module.scales.shape, 127 + round(math.log2(size)), mx.uint8)


class RandomModel:
    """A model of mlx-lm. `like`: another one of the shape, whose weights it gets in its own type. Both share the codes."""

    def __init__(self, shape: Shape, dtype: str, like: RandomModel | None = None) -> None:
        self.shape, self.dtype = shape, getattr(mx, dtype)
        self.model = FAMILIES[shape.family](shape)
        _quantize(self.model)  # lazily: nothing computes the floats, of which only the shapes are used
        if like is None:
            self._draw_weights()
        else:
            self.model.update(like.model.parameters())
        self.model.update(tree_map(self._cast, self.model.parameters()))
        mx.eval(self.model.parameters())

    def _draw_weights(self) -> None:
        random = np.random.default_rng(1)
        for _, module in self.model.named_modules():
            if isinstance(module, nn.QuantizedEmbedding):
                # The embeddings have the size of what attention adds. If they were smaller, the prompt, which all tokens share,
                # would decide which experts a token gets.
                _draw(module, math.sqrt(3), random)
            elif isinstance(module, (nn.QuantizedLinear, QuantizedSwitchLinear)):
                columns = module.weight.shape[-1] * 32 // module.bits
                _draw(module, 1 / math.sqrt(columns), random)
            else:
                continue
            mx.eval(module.parameters())

    def _cast(self, a: mx.array) -> mx.array:
        return a.astype(self.dtype) if mx.issubdtype(a.dtype, mx.floating) else a

    @property
    def layers(self) -> list[list[Any]]:
        """The blocks of each layer."""
        blocks = self.model.layers
        of_layer = len(blocks) // self.shape.layers
        return [blocks[first : first + of_layer] for first in range(0, len(blocks), of_layer)]

    @property
    def experts(self) -> Any | None:
        """The experts of the first layer, or None."""
        last = self.layers[0][-1]
        mlp = last.get("mlp", last.get("mixer"))
        return mlp.get("switch_mlp", mlp.get("experts"))
