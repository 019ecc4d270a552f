"""Tiny configurations of models of mlx-lm without experts."""

from __future__ import annotations

from families import AFFINE4, LAYERS, Family

# The models, which have other norms and activations than those with experts, and the operators of gqmm.mlx that they run.
DENSE: dict[str, tuple[Family, tuple[str, ...]]] = {
    "qwen3": (Family("qwen3", {}, AFFINE4, expert_layers=0), ("quantized_matmul", "activations", "rms_norm", "rope")),
    "stablelm": (
        Family(
            "stablelm",
            {"use_qkv_bias": True, "partial_rotary_factor": 0.25, "layer_norm_eps": 1e-5, "qk_layernorm": True},
            expert_layers=0,
        ),
        ("matmul", "layer_norm", "activations", "rope"),
    ),
    "gpt2": (
        Family(
            "gpt2",
            {"n_ctx": 256, "n_embd": 128, "n_head": 4, "n_layer": LAYERS, "n_positions": 256, "layer_norm_epsilon": 1e-5}
            | {"num_key_value_heads": 4},
            expert_layers=0,
        ),
        ("matmul", "layer_norm", "activations"),
    ),
    "olmo2": (Family("olmo2", {}, expert_layers=0), ("matmul", "activations", "rms_norm", "rope")),
    "starcoder2": (Family("starcoder2", {}, AFFINE4, expert_layers=0), ("quantized_matmul", "layer_norm", "activations", "rope")),
    "nemotron": (
        Family("nemotron", {"hidden_act": "relu2", "norm_eps": 1e-5, "partial_rotary_factor": 0.5}, AFFINE4, expert_layers=0),
        ("quantized_matmul", "activations", "rope"),
    ),
    "falcon_h1": (
        Family(
            "falcon_h1",
            {"mamba_d_ssm": 128, "mamba_n_heads": 4, "mamba_d_head": 32, "mamba_d_state": 16, "mamba_d_conv": 4}
            | {"mamba_n_groups": 2, "mamba_proj_bias": False, "mamba_conv_bias": True, "projectors_bias": False},
            AFFINE4,
            expert_layers=0,
        ),
        ("quantized_matmul", "ssm_update", "rms_norm", "rope"),
    ),
    "mamba2": (
        Family(
            "mamba2",
            {"num_heads": 4, "head_dim": 64, "state_size": 16, "conv_kernel": 4, "n_groups": 2, "time_step_rank": "auto"}
            | {"use_bias": False, "use_conv_bias": True, "layer_norm_epsilon": 1e-5, "time_step_limit": (0.0, float("inf"))},
            AFFINE4,
            expert_layers=0,
        ),
        ("quantized_matmul", "ssm_update", "activations", "rms_norm"),
    ),
}
