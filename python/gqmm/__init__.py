"""Matrix products for the experts of quantized mixture-of-experts models, among them gather_qmm.

The functions compute what the functions of the same names in ``mlx.core`` of MLX 0.32.4 compute. They run on x86-64 and ARM
CPUs, and take arrays of NumPy, PyTorch, JAX and MLX.
"""

from gqmm import _threadpoolctl
from gqmm._activations import GELU, Activation, GeGLU, ReLU2, SiLU, SiTU, SwiGLU, SwiGLUStep
from gqmm._formats import Format, formats
from gqmm._gqmm import (
    Device,
    InstructionSet,
    PackedWeights,
    QuantizedWeights,
    Stream,
    active_instruction_set,
    available_threads,
    get_num_threads,
    instruction_sets,
    numerics_contract,
    set_num_threads,
    version,
)
from gqmm._grouped import grouped_mm, grouped_mm_vjp, grouped_qmm, grouped_qmm_vjp
from gqmm._layers import (
    depthwise_conv1d,
    gated_delta_update,
    layer_norm,
    quantized_scaled_dot_product_attention,
    rms_norm,
    rope,
    scaled_dot_product_attention,
    softmax,
    ssm_update,
)
from gqmm._memory_nodes import MemoryNode, memory_nodes
from gqmm._moe import activate, moe_combine, moe_ffn, moe_ffn_vjp
from gqmm._ops import (
    UnpackedWeights,
    dequantize,
    gather_mm,
    gather_mm_vjp,
    gather_qmm,
    gather_qmm_vjp,
    pack,
    quantize,
    quantized_matmul,
    quantized_matmul_vjp,
    unpack,
)
from gqmm._shared_experts import SharedExperts

__version__ = version()
_threadpoolctl.register()

__all__ = [
    "GELU",
    "Activation",
    "Device",
    "Format",
    "GeGLU",
    "InstructionSet",
    "MemoryNode",
    "PackedWeights",
    "QuantizedWeights",
    "ReLU2",
    "SharedExperts",
    "SiLU",
    "SiTU",
    "Stream",
    "SwiGLU",
    "SwiGLUStep",
    "UnpackedWeights",
    "__version__",
    "activate",
    "active_instruction_set",
    "available_threads",
    "depthwise_conv1d",
    "dequantize",
    "formats",
    "gated_delta_update",
    "gather_mm",
    "gather_mm_vjp",
    "gather_qmm",
    "gather_qmm_vjp",
    "get_num_threads",
    "grouped_mm",
    "grouped_mm_vjp",
    "grouped_qmm",
    "grouped_qmm_vjp",
    "instruction_sets",
    "layer_norm",
    "memory_nodes",
    "moe_combine",
    "moe_ffn",
    "moe_ffn_vjp",
    "numerics_contract",
    "pack",
    "quantize",
    "quantized_matmul",
    "quantized_matmul_vjp",
    "quantized_scaled_dot_product_attention",
    "rms_norm",
    "rope",
    "scaled_dot_product_attention",
    "set_num_threads",
    "softmax",
    "ssm_update",
    "unpack",
]
