"""What a family is: a model of mlx-lm with a tiny configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

VOCABULARY, LAYERS, GROUP = 192, 2, 64
AFFINE4 = {"mode": "affine", "bits": 4, "group_size": GROUP}

COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 192,
    "moe_intermediate_size": 64,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "num_experts": 16,
    "num_experts_per_tok": 3,  # times the tokens of a batch of prompts is more than 64, from where on mlx-lm sorts by expert
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "norm_topk_prob": True,
}

# How many times a small real model is as wide as these configurations, in the settings that are widths. What is 1 stays 1.
WIDER = 8
WIDTHS = (
    "hidden_size", "hidden_dim", "d_model", "model_dim", "n_embd", "block_dim", "dim_model_base", "intermediate_size",
    "moe_intermediate_size", "shared_intermediate_size", "dense_intermediate_size", "intermediate_size_mlp",
    "ff_intermediate_size", "mlp_hidden_size", "n_inner", "block_ff_dim", "shared_expert_intermediate_size",
    "moe_shared_expert_intermediate_size", "share_expert_dim", "ffn_hidden_size", "expert_ffn_hidden_size", "moe_latent_size",
    "routed_expert_hidden_size", "kv_lora_rank", "q_lora_rank", "o_lora_rank", "mamba_d_ssm", "num_attention_heads",
    "num_key_value_heads", "swa_num_attention_heads", "swa_num_key_value_heads", "num_attention_groups", "n_shared_head",
    "num_heads", "num_kv_heads", "n_head", "n_heads", "n_kv_heads", "kv_n_heads", "num_query_heads", "mamba_n_heads",
    "mamba_num_heads", "hidden_size_per_layer_input", "laurel_rank", "time_step_rank", "a_low_rank_dim", "v_low_rank_dim",
    "gate_low_rank_dim", "decay_low_rank_dim",
)  # fmt: skip


def _widened(settings: Any, name: str = "") -> Any:
    if isinstance(settings, dict):
        return {each: _widened(value, each) for each, value in settings.items()}
    if isinstance(settings, list):
        return [_widened(value, name) for value in settings]
    return settings * WIDER if name in WIDTHS and isinstance(settings, int) and settings > 1 else settings


@dataclass
class Family:
    """A model of mlx_lm.models, and how many layers of it have experts."""

    module: str
    config: dict[str, Any]  # in addition to COMMON
    quantization: dict[str, Any] | None = None  # None leaves the weights as they are
    others: dict[str, Any] | None = None  # the format of all layers but the experts', where it is another
    nested: bool = False  # whether the configuration stands under text_config
    beside: dict[str, Any] = field(default_factory=dict)  # what then stands beside it
    expert_layers: int = LAYERS
    wide: dict[str, Any] = field(default_factory=dict)  # the settings of the wide configuration that are not just wider

    @property
    def wide_config(self) -> dict[str, Any]:
        """The configuration at the widths of a small real model, for measurements."""
        return {**_widened({**COMMON, **self.config}), **self.wide}

    def full_config(self, **changes: Any) -> dict[str, Any]:
        """The configuration as a checkpoint's config.json has it."""
        text = {"model_type": self.module, **COMMON, **self.config, **changes}
        return {"model_type": self.module, "text_config": text, "vocab_size": VOCABULARY, **self.beside} if self.nested else text

    @property
    def products(self) -> list[str]:
        """The functions of MLX that the model calls."""
        if not self.expert_layers:
            return ["quantized_matmul" if self.quantization else "matmul"]
        return ["gather_qmm", "quantized_matmul"] if self.quantization else ["gather_mm"]


def dense(
    module: str,
    quantization: dict[str, Any] | None = AFFINE4,
    *,
    nested: bool = False,
    wide: dict[str, Any] | None = None,
    **config: Any,
) -> Family:
    """Make a family without experts."""
    return Family(module, config, quantization, nested=nested, expert_layers=0, wide=wide or {})
