"""MLX's products and attention on the CPU, computed by gqmm. It serves mlx-lm and all other programs on MLX.

    import gqmm.mlx
    gqmm.mlx.install()      # mx.gather_qmm and the other operators of gqmm.mlx.OPERATORS are gqmm's from here on

A program that shall not be changed can be run with ``python -m gqmm.mlx -m mlx_lm generate --model …``. The functions build
MLX's lazy graphs and have its transforms (grad, vjp, jvp, vmap, compile). docs/guide/mlx.md says how they differ from MLX's own.
"""

from gqmm.mlx._load import extension
from gqmm.mlx._model_activations import activate
from gqmm.mlx._moe import moe_ffn
from gqmm.mlx._moe_counts import ExpertCounts, count_experts
from gqmm.mlx._operators import OPERATORS
from gqmm.mlx._pack_model import PackReport, pack_model
from gqmm.mlx._patch import Calls, Installation, Status, install, status, uninstall
from gqmm.mlx._shard_experts import ShardReport, shard_experts

addmm = extension.addmm
conv1d = extension.conv1d
conv_general = extension.conv_general
gated_delta_update = extension.gated_delta_update
gather_mm = extension.gather_mm
gather_qmm = extension.gather_qmm
grouped_mm = extension.grouped_mm
grouped_qmm = extension.grouped_qmm
layer_norm = extension.layer_norm
matmul = extension.matmul
moe_combine = extension.moe_combine
quantized_matmul = extension.quantized_matmul
quantized_scaled_dot_product_attention = extension.quantized_scaled_dot_product_attention
rms_norm = extension.rms_norm
rope = extension.rope
scaled_dot_product_attention = extension.scaled_dot_product_attention
softmax = extension.softmax
ssm_update = extension.ssm_update

__all__ = [
    "OPERATORS",
    "Calls",
    "ExpertCounts",
    "Installation",
    "PackReport",
    "ShardReport",
    "Status",
    "activate",
    "addmm",
    "conv1d",
    "conv_general",
    "count_experts",
    "gated_delta_update",
    "gather_mm",
    "gather_qmm",
    "grouped_mm",
    "grouped_qmm",
    "install",
    "layer_norm",
    "matmul",
    "moe_combine",
    "moe_ffn",
    "pack_model",
    "quantized_matmul",
    "quantized_scaled_dot_product_attention",
    "rms_norm",
    "rope",
    "scaled_dot_product_attention",
    "shard_experts",
    "softmax",
    "ssm_update",
    "status",
    "uninstall",
]
