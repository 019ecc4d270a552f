"""MLX's quantized and gathered products on the CPU, through gqmm: for mlx-lm and whatever else runs on MLX.

    import gqmm.mlx
    gqmm.mlx.install()      # mx.gather_qmm, mx.quantized_matmul and mx.gather_mm are gqmm's from here on

or, without touching a program, ``python -m gqmm.mlx -m mlx_lm generate --model …``. The functions build MLX's lazy graphs and
have its transforms (grad, vjp, jvp, vmap, compile); docs/mlx.md says what differs.
"""

from gqmm.mlx._load import extension
from gqmm.mlx._pack_model import PackReport, pack_model
from gqmm.mlx._patch import Calls, Installation, Status, install, status, uninstall

gather_mm = extension.gather_mm
gather_qmm = extension.gather_qmm
quantized_matmul = extension.quantized_matmul

__all__ = [
    "Calls",
    "Installation",
    "PackReport",
    "Status",
    "gather_mm",
    "gather_qmm",
    "install",
    "pack_model",
    "quantized_matmul",
    "status",
    "uninstall",
]
