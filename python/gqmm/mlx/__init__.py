"""MLX's quantized and gathered products on the CPU, computed by gqmm. It serves mlx-lm and all other programs on MLX.

    import gqmm.mlx
    gqmm.mlx.install()      # mx.gather_qmm, mx.quantized_matmul and mx.gather_mm are gqmm's from here on

A program that shall not be changed can be run with ``python -m gqmm.mlx -m mlx_lm generate --model …``. The functions build
MLX's lazy graphs and have its transforms (grad, vjp, jvp, vmap, compile). docs/guide/mlx.md says how they differ from MLX's own.
"""

from gqmm.mlx._load import extension
from gqmm.mlx._moe import moe_ffn
from gqmm.mlx._pack_model import PackReport, pack_model
from gqmm.mlx._patch import Calls, Installation, Status, install, status, uninstall

gather_mm = extension.gather_mm
gather_qmm = extension.gather_qmm
grouped_mm = extension.grouped_mm
grouped_qmm = extension.grouped_qmm
moe_combine = extension.moe_combine
quantized_matmul = extension.quantized_matmul

__all__ = [
    "Calls",
    "Installation",
    "PackReport",
    "Status",
    "gather_mm",
    "gather_qmm",
    "grouped_mm",
    "grouped_qmm",
    "install",
    "moe_combine",
    "moe_ffn",
    "pack_model",
    "quantized_matmul",
    "status",
    "uninstall",
]
