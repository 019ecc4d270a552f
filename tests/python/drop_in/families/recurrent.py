"""Tiny configurations of models of mlx-lm without experts whose layers keep a state: state spaces, delta rules, convolutions."""

from __future__ import annotations

from .experts import LINEAR_ATTENTION, MAMBA2, QWEN3_5, WIDE_LINEAR_ATTENTION
from .family import Family, dense

LFM2 = {
    "norm_eps": 1e-5,
    "conv_bias": False,
    "conv_L_cache": 3,
    "block_dim": 128,
    "block_ff_dim": 192,
    "block_multiple_of": 64,
    "block_ffn_dim_multiplier": 1.0,
    "block_auto_adjust_ff_dim": False,
    "layer_types": ["conv", "full_attention"],
}
MAMBA = {"state_size": 16, "conv_kernel": 4, "use_bias": False, "use_conv_bias": True}

RECURRENT = {
    "baichuan_m1": dense("baichuan_m1", sliding_window=16, sliding_window_layers=[0], conv_window=2),
    "falcon_h1": dense(
        "falcon_h1",
        mamba_d_head=32,
        mamba_d_ssm=128,
        mamba_d_state=16,
        mamba_n_heads=4,
        mamba_n_groups=2,
        mamba_rms_norm=True,
        time_step_limit=MAMBA2["time_step_limit"],
        wide={"mamba_d_state": 128},
    ),
    "gear": dense("gear", layer_types=["conv_mixer", "full_attention"], sliding_window=16, final_logit_softcapping=30.0),
    "lfm2": dense("lfm2", **LFM2),
    "lfm2-vl": dense("lfm2-vl", nested=True, **LFM2),
    "mamba": dense("mamba", **MAMBA, time_step_rank=64, use_bcdt_rms=True),
    "mamba2": dense(
        "mamba2",
        **MAMBA,
        intermediate_size=256,
        num_heads=8,
        layer_norm_epsilon=1e-5,
        n_groups=2,
        time_step_limit=(0.0, float("inf")),
        time_step_rank="auto",
        wide={"state_size": 128},
    ),
    "olmo_hybrid": dense(
        "olmo_hybrid",
        **{**LINEAR_ATTENTION, "linear_num_key_heads": 4},
        linear_allow_neg_eigval=True,
        layer_types=["linear_attention", "full_attention"],
        wide={**WIDE_LINEAR_ATTENTION, "linear_num_key_heads": 8},
    ),
    "plamo2": dense(
        "plamo2",
        hidden_size_per_head=32,
        mamba_d_state=16,
        mamba_num_heads=4,
        attention_window_size=16,
        wide={"mamba_d_state": 64},
    ),
    "prism_hadamard_qwen35": Family(
        "prism_hadamard_qwen35",
        {**QWEN3_5, "num_experts": 0, "intermediate_size": 512},
        nested=True,
        beside={
            "tensor_namespace": "mlx-vlm-qwen3_5",
            "quantization": {"bits": 2, "group_size": 128, "mode": "affine"},
            "modules": [
                {"path": f"model.layers.{layer}.mlp.{name}_proj", "embedding": False, "dtype": "float16", "block": block}
                for layer in (0, 1)
                for name, block in (("gate", 0), ("down", 512))
            ],
        },
        expert_layers=0,
        wide=WIDE_LINEAR_ATTENTION,
    ),
    "recurrent_gemma": dense(
        "recurrent_gemma",
        conv1d_width=4,
        logits_soft_cap=30.0,
        attention_window_size=16,
        num_key_value_heads=1,
        block_types=["recurrent", "attention"],
    ),
    "rwkv7": dense("rwkv7", norm_eps=1e-5, a_low_rank_dim=64, v_low_rank_dim=64, gate_low_rank_dim=64, decay_low_rank_dim=64),
}
