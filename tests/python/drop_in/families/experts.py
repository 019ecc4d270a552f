"""Tiny configurations of the mixture-of-experts models of mlx-lm."""

from __future__ import annotations

from .family import AFFINE4, LAYERS, VOCABULARY, Family

# Attention over a latent vector, as of DeepSeek V2 and later. It multiplies by the quantized matrices of each head, one of them
# from both sides.
LATENT = {
    "kv_lora_rank": 64,
    "q_lora_rank": 64,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 64,
    "v_head_dim": 64,
    "num_key_value_heads": 4,
}
# Experts in groups, of which some are chosen first.
GROUPED = {
    "n_shared_experts": 1,
    "n_routed_experts": 16,
    "routed_scaling_factor": 2.5,
    "n_group": 4,
    "topk_group": 2,
    "first_k_dense_replace": 1,
}
DEEPSEEK_V3 = {**LATENT, **GROUPED}
YARN = {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 128, "mscale": 1.0, "mscale_all_dim": 1.0}
INDEXER = {"index_head_dim": 32, "index_n_heads": 2, "index_topk": 16}
GLM4_MOE = {
    **GROUPED,
    "n_group": 1,
    "topk_group": 1,
    "routed_scaling_factor": 1.5,
    "rope_scaling": None,
    "use_qk_norm": True,
    "attention_bias": True,
    "partial_rotary_factor": 0.5,
}
QWEN3_MOE = {"decoder_sparse_step": 1, "mlp_only_layers": [0]}  # a dense layer before the sparse one
LINEAR_ATTENTION = {  # Qwen3-Next's, in one of two layers
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "linear_conv_kernel_dim": 4,
    "full_attention_interval": 2,
    "partial_rotary_factor": 0.5,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "shared_expert_intermediate_size": 64,
}
WIDE_LINEAR_ATTENTION = {
    "linear_num_value_heads": 8,
    "linear_num_key_heads": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
}
QWEN3_5 = {
    **LINEAR_ATTENTION,
    "rope_parameters": {"type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
}
GRANITE = {
    "intermediate_size": 64,
    "num_local_experts": 10,
    "logits_scaling": 6.0,
    "attention_multiplier": 0.125,
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
}
BAILING = {
    "num_shared_experts": 1,
    "first_k_dense_replace": 1,
    "n_group": 4,
    "topk_group": 2,
    "routed_scaling_factor": 2.5,
    "score_function": "sigmoid",
    "use_qk_norm": True,
    "layer_group_size": 2,
    "group_norm_size": 2,
}
LONGCAT = {
    **LATENT,
    "attention_method": "MLA",
    "zero_expert_type": "identity",
    "zero_expert_num": 4,
    "n_routed_experts": 12,
    "ffn_hidden_size": 192,
    "expert_ffn_hidden_size": 64,
    "moe_topk": 3,
    "num_layers": LAYERS,
    "routed_scaling_factor": 2.0,
    "mla_scale_q_lora": True,
    "mla_scale_kv_lora": True,
}
GEMMA4 = {
    "enable_moe_block": True,
    "top_k_experts": 3,
    "global_head_dim": 64,
    "hidden_size_per_layer_input": 0,
    "num_kv_shared_layers": 0,
    "sliding_window": 16,
    "layer_types": ["sliding_attention", "full_attention"],
    "tie_word_embeddings": True,
    "vocab_size_per_layer_input": VOCABULARY,
}
MISTRAL4 = {**DEEPSEEK_V3, "rope_parameters": {**YARN, "rope_theta": 10000.0, "llama_4_scaling_beta": 0.1}}
SLIDING = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}
ROPE_OF_EACH_TYPE = {kind: {"rope_theta": 10000.0} for kind in SLIDING["layer_types"]}
HUNYUAN_ROPE = {"factor": 1.0, "type": "dynamic", "alpha": 1000.0, "beta_fast": 32, "beta_slow": 1}
KIMI_LINEAR = {
    **LATENT,
    "linear_attn_config": {
        "num_heads": 2,
        "head_dim": 32,
        "short_conv_kernel_size": 4,
        "kda_layers": [1],
        "full_attn_layers": [2],
    },
    "num_experts_per_token": 3,
    "num_shared_experts": 1,
    "num_expert_group": 4,
    "topk_group": 2,
    "routed_scaling_factor": 2.5,
    "model_max_length": 256,
}
WIDE_KIMI = {"linear_attn_config": {**KIMI_LINEAR["linear_attn_config"], "num_heads": 8, "head_dim": 128}}
MAMBA2 = {"mamba_proj_bias": False, "mlp_bias": False, "time_step_limit": (0.001, 100.0)}

EXPERTS = {
    "Klear": Family("Klear", {"decoder_sparse_step": 1, "mlp_only_layers": [0], "n_shared_experts": 1}, AFFINE4, expert_layers=1),
    "afmoe": Family("afmoe", {**SLIDING, "num_dense_layers": 1, "n_group": 4, "topk_group": 2}, AFFINE4, expert_layers=1),
    "bailing_hybrid": Family("bailing_hybrid", {**LATENT, **BAILING}, AFFINE4, expert_layers=1),
    "bailing_moe": Family("bailing_moe", BAILING, AFFINE4, expert_layers=1),
    "bailing_moe_linear": Family("bailing_moe_linear", BAILING, AFFINE4, expert_layers=1),
    "bailing_moe_v3": Family(
        "bailing_moe_v3", {**LATENT, **BAILING, "moe_shared_expert_intermediate_size": 64}, AFFINE4, expert_layers=1
    ),
    # Its experts are no expert layers of mlx-lm, but modules of their own, which it calls token by token.
    "dbrx": Family(
        "dbrx",
        {
            "d_model": 128,
            "n_layers": LAYERS,
            "n_heads": 4,
            "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
            "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 16, "moe_top_k": 3},
        },
        AFFINE4,
        expert_layers=0,
    ),
    "deepseek": Family(
        "deepseek", {"n_shared_experts": 2, "n_routed_experts": 16, "first_k_dense_replace": 1}, AFFINE4, expert_layers=1
    ),
    "deepseek_v2": Family(
        "deepseek_v2", {**DEEPSEEK_V3, "topk_method": "group_limited_greedy", "rope_scaling": YARN}, AFFINE4, expert_layers=1
    ),
    "deepseek_v3": Family("deepseek_v3", DEEPSEEK_V3, AFFINE4, expert_layers=1),
    "deepseek_v32": Family("deepseek_v32", {**DEEPSEEK_V3, **INDEXER}, AFFINE4, expert_layers=1),
    "deepseek_v41": Family(
        "deepseek_v41",
        {
            "q_lora_rank": 64,
            "qk_rope_head_dim": 16,
            "o_groups": 2,
            "o_lora_rank": 64,
            "n_routed_experts": 16,
            "swiglu_limit": 0.25,
            "rms_norm_eps": 1e-20,
            "sliding_window": 16,
            "hc_mult": 2,
            "compress_ratios": (0, 4),
            "kv_source_layer_ids": (1,),
            "index_source_layer_ids": (1,),
            "index_n_heads": 2,
            "index_head_dim": 32,
            "index_topk": 4,
        },
        AFFINE4,
    ),
    "dots1": Family("dots1", GROUPED, AFFINE4, expert_layers=1),
    "ernie4_5_moe": Family(
        "ernie4_5_moe",
        {"use_bias": True, "moe_num_experts": 16, "moe_k": 3, "moe_num_shared_experts": 1, "moe_layer_start_index": 1},
        AFFINE4,
        expert_layers=1,
    ),
    "exaone_moe": Family(
        "exaone_moe",
        {**SLIDING, "num_shared_experts": 1, "is_moe_layer": [False, True], "n_group": 4, "topk_group": 2},
        AFFINE4,
        expert_layers=1,
    ),
    "gemma4": Family("gemma4", GEMMA4, AFFINE4, nested=True),
    "gemma4_text": Family("gemma4_text", GEMMA4, AFFINE4),
    "glm4_moe": Family("glm4_moe", GLM4_MOE, {"mode": "mxfp8", "bits": 8, "group_size": 32}, expert_layers=1),
    "glm4_moe_lite": Family("glm4_moe_lite", DEEPSEEK_V3, AFFINE4, expert_layers=1),
    "glm_moe_dsa": Family(
        "glm_moe_dsa",
        {
            **DEEPSEEK_V3,
            **INDEXER,
            "topk_method": "noaux_tc",
            "scoring_func": "sigmoid",
            "moe_layer_freq": 1,
            "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
        },
        AFFINE4,
        expert_layers=1,
    ),
    "gpt_oss": Family(
        "gpt_oss",
        {**SLIDING, "intermediate_size": 96, "num_local_experts": 8},
        {"mode": "mxfp4", "bits": 4, "group_size": 32},
        others={"mode": "affine", "bits": 8, "group_size": 64},
    ),
    "granitemoe": Family("granitemoe", GRANITE, AFFINE4),
    "granitemoehybrid": Family(
        "granitemoehybrid",
        {
            **GRANITE,
            **MAMBA2,
            "layer_types": ["mamba", "attention"],
            "shared_intermediate_size": 64,
            "mamba_n_heads": 4,
            "mamba_d_head": 64,
            "mamba_d_state": 16,
            "mamba_d_conv": 4,
            "mamba_n_groups": 1,
            "mamba_conv_bias": True,
        },
        AFFINE4,
        wide={"mamba_d_state": 128},
    ),
    "hunyuan": Family(
        "hunyuan",
        {
            "moe_topk": 3,
            "num_shared_expert": 1,
            "use_mixed_mlp_moe": True,
            "use_qk_norm": True,
            "use_cla": True,
            "cla_share_factor": 2,
            "rope_scaling": HUNYUAN_ROPE,
        },
        AFFINE4,
    ),
    "jamba": Family(
        "jamba",
        {
            "attn_layer_offset": 1,
            "attn_layer_period": 2,
            "expert_layer_offset": 1,
            "expert_layer_period": 2,
            "mamba_d_conv": 4,
            "mamba_d_state": 16,
            "mamba_expand": 2,
        },
        AFFINE4,
        expert_layers=1,
    ),
    "kimi_k25": Family("kimi_k25", DEEPSEEK_V3, AFFINE4, nested=True, expert_layers=1),
    "kimi_k3": Family(
        "kimi_k3",
        {
            **KIMI_LINEAR,
            "activation_situ_beta": 2.0,
            "activation_situ_linear_beta": 0.5,
            "routed_expert_hidden_size": 64,
            "latent_moe_use_norm": True,
        },
        AFFINE4,
        nested=True,
        wide=WIDE_KIMI,
    ),
    "kimi_linear": Family("kimi_linear", KIMI_LINEAR, AFFINE4, wide=WIDE_KIMI),
    "kimi_vl": Family("kimi_vl", DEEPSEEK_V3, AFFINE4, nested=True, expert_layers=1),
    "laguna": Family(
        "laguna", {**SLIDING, "shared_expert_intermediate_size": 64, "moe_routed_scaling_factor": 2.5}, AFFINE4, expert_layers=1
    ),
    "lfm2_moe": Family(
        "lfm2_moe",
        {
            "use_expert_bias": True,
            "num_dense_layers": 1,
            "norm_eps": 1e-5,
            "conv_bias": False,
            "conv_L_cache": 3,
            "layer_types": ["conv", "full_attention"],
        },
        AFFINE4,
        expert_layers=1,
    ),
    "llama4": Family(
        "llama4",
        {
            "num_hidden_layers": 4,  # attention is global in every fourth layer, and the model takes that there is one
            "attention_chunk_size": 16,
            "interleave_moe_layer_step": 1,
            "intermediate_size": 64,
            "intermediate_size_mlp": 192,
            "num_experts_per_tok": 1,
            "num_local_experts": 8,
            "rope_scaling": None,
            "use_qk_norm": True,
        },
        AFFINE4,
        nested=True,
        expert_layers=4,
    ),
    "longcat_flash": Family("longcat_flash", LONGCAT, AFFINE4),
    "longcat_flash_ngram": Family(
        "longcat_flash_ngram", {**LONGCAT, "ngram_vocab_size_ratio": 1, "emb_split_num": 2, "emb_neighbor_num": 2}, AFFINE4
    ),
    "mellum": Family("mellum", {**SLIDING, "rope_parameters": ROPE_OF_EACH_TYPE}, AFFINE4),
    "mimo_v2_flash": Family(
        "mimo_v2_flash",
        {
            **GROUPED,
            "hybrid_layer_pattern": [0, 1],
            "moe_layer_freq": [0, 1],
            "add_swa_attention_sink_bias": True,
            "add_full_attention_sink_bias": False,
            "sliding_window_size": 16,
            "topk_method": "noaux_tc",
            "scoring_func": "sigmoid",
            "layernorm_epsilon": 1e-5,
            "swa_rope_theta": 10000.0,
            "swa_num_attention_heads": 4,
            "swa_num_key_value_heads": 2,
            "v_head_dim": 32,
            "swa_head_dim": 32,
            "swa_v_head_dim": 32,
            "partial_rotary_factor": 0.5,
        },
        AFFINE4,
        expert_layers=1,
    ),
    "minimax": Family(
        "minimax",
        {"intermediate_size": 64, "num_local_experts": 16, "shared_intermediate_size": 0, "rotary_dim": 16},
        {"mode": "affine", "bits": 3, "group_size": 64},
    ),
    "minimax_m3_vl": Family(
        "minimax_m3_vl",
        {
            "intermediate_size": 64,
            "dense_intermediate_size": 192,
            "shared_intermediate_size": 64,
            "num_local_experts": 16,
            "moe_layer_freq": [0, 1],
            "swiglu_limit": 0.5,
        },
        AFFINE4,
        nested=True,
        expert_layers=1,
    ),
    "mistral3": Family("mistral3", {**MISTRAL4, "model_type": "mistral4"}, AFFINE4, nested=True, expert_layers=1),
    "mistral4": Family("mistral4", MISTRAL4, AFFINE4, expert_layers=1),
    "mixtral": Family("mixtral", {"num_local_experts": 8}, AFFINE4),
    "mixtral, not quantized": Family("mixtral", {"num_local_experts": 8}),
    "nemotron_h": Family(
        "nemotron_h",
        {
            **GROUPED,
            **MAMBA2,
            "hybrid_override_pattern": ["M", "E", "*", "E"],
            "mamba_num_heads": 4,
            "mamba_head_dim": 32,
            "ssm_state_size": 16,
            "conv_kernel": 4,
            "n_groups": 2,
            "layer_norm_epsilon": 1e-5,
            "use_bias": False,
            "use_conv_bias": True,
            "moe_shared_expert_intermediate_size": 64,
            "moe_latent_size": 64,
        },
        AFFINE4,
        wide={"ssm_state_size": 128},
    ),
    "olmoe": Family("olmoe", {"intermediate_size": 64}, {"mode": "affine", "bits": 6, "group_size": 32}),
    "phimoe": Family(
        "phimoe",
        {
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "rope_scaling": {
                "long_factor": [1.0] * 16,
                "short_factor": [1.0] * 16,
                "long_mscale": 1.0,
                "short_mscale": 1.0,
                "original_max_position_embeddings": 64,
            },
        },
        AFFINE4,
    ),
    "phixtral": Family(
        "phixtral", {"num_vocab": VOCABULARY, "model_dim": 128, "num_heads": 4, "num_layers": LAYERS, "rotary_dim": 16}, AFFINE4
    ),
    "qwen2_moe": Family("qwen2_moe", {"shared_expert_intermediate_size": 192, "num_experts": 10}, AFFINE4),
    "qwen3_5": Family("qwen3_5", QWEN3_5, AFFINE4, nested=True, wide=WIDE_LINEAR_ATTENTION),
    "qwen3_5_moe": Family("qwen3_5_moe", QWEN3_5, AFFINE4, nested=True, wide=WIDE_LINEAR_ATTENTION),
    "qwen3_moe": Family("qwen3_moe", QWEN3_MOE, AFFINE4, expert_layers=1),
    "qwen3_moe, nvfp4": Family("qwen3_moe", QWEN3_MOE, {"mode": "nvfp4", "bits": 4, "group_size": 16}, expert_layers=1),
    "qwen3_next": Family("qwen3_next", LINEAR_ATTENTION, AFFINE4, wide=WIDE_LINEAR_ATTENTION),
    "qwen3_vl_moe": Family("qwen3_vl_moe", QWEN3_MOE, AFFINE4, nested=True, expert_layers=1),
    "solar_open": Family("solar_open", GLM4_MOE, AFFINE4, expert_layers=1),
    "step3p5": Family(
        "step3p5",
        {
            **SLIDING,
            "num_attention_groups": 2,
            "moe_num_experts": 16,
            "moe_top_k": 3,
            "share_expert_dim": 64,
            "moe_layers_enum": "0,1",
            "swiglu_limits": [0.0, 0.25],
            "swiglu_limits_shared": [0.0, 0.25],
            "attention_other_setting": {"num_attention_heads": 4, "num_attention_groups": 2},
        },
        AFFINE4,
    ),
}

# Model files whose own code adds up the slots, and why.
SUM_STAYS = {
    "bailing_moe": "the sum is a function of its own, compiled by mx.compile",
    "deepseek_v41": "it converts the slots to float32 first",
    "llama4": "there is nothing to add up: a token has one expert",
    "longcat_flash": "it calls mx.sum",
    "longcat_flash_ngram": "its layers are longcat_flash's",
}
