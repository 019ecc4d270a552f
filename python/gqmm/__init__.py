"""gather_qmm: the matrix product that runs the experts of quantized mixture-of-experts models.

The functions mean what those of ``mlx.core`` mean in MLX 0.32.4, on x86-64 and ARM CPUs and on the arrays of NumPy, PyTorch,
JAX and MLX.
"""

from gqmm import _threadpoolctl
from gqmm._gqmm import (
    Device,
    InstructionSet,
    PackedWeights,
    Stream,
    active_instruction_set,
    available_threads,
    get_num_threads,
    instruction_sets,
    set_num_threads,
    version,
)
from gqmm._ops import UnpackedWeights, dequantize, gather_mm, gather_qmm, pack, quantize, quantized_matmul, unpack

__version__ = version()
_threadpoolctl.register()

__all__ = [
    "Device",
    "InstructionSet",
    "PackedWeights",
    "Stream",
    "UnpackedWeights",
    "__version__",
    "active_instruction_set",
    "available_threads",
    "dequantize",
    "gather_mm",
    "gather_qmm",
    "get_num_threads",
    "instruction_sets",
    "pack",
    "quantize",
    "quantized_matmul",
    "set_num_threads",
    "unpack",
]
