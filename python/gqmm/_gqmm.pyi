"""
The compiled part of gqmm. Use the functions of the package gqmm, which document it.
"""

import os
from typing import Any, Self

import numpy
import numpy.typing

import gqmm._types


class Device:
    """A processor that operators run on. There is one: the CPU."""

    def __init__(self, type: str = 'cpu', index: int = 0) -> None:
        """Raises ValueError for anything but ('cpu', 0)."""

    @property
    def type(self) -> str:
        """The kind of device: 'cpu'."""

    @property
    def index(self) -> int:
        """The number among the devices of this kind: 0."""

    def __eq__(self, other: object, /) -> bool: ...

    def __hash__(self) -> int: ...

    def __repr__(self) -> str: ...

    def __reduce__(self) -> tuple[Any, ...]: ...

    def __copy__(self) -> Self: ...

    def __deepcopy__(self, memo: object, /) -> Self: ...

class Stream:
    """
    A stream says where an operator runs, and with how many threads. A CPU stream has no queue: an operator runs in the caller's thread and has finished when it returns.

    With a node, the threads of a call, and the caller while the call runs, are bound to the processors of that memory node. Memory that they write first lies on the node: that of results and of packed weights. A node has threads of its own, so calls for several nodes run at once if each has a Python thread of its own.
    """

    def __init__(self, threads: int = 0, device: Device = Device(), node: int | None = None) -> None:
        """
        threads: the number of threads of a call, with the caller's; 0 stands for get_num_threads(), and with a node for not more than its processors. node: the number of one of memory_nodes(), or None for any. Raises ValueError if threads is negative or above 4096, or if node is negative. A call raises ValueError if its thread may use no processor of the node.
        """

    @property
    def threads(self) -> int:
        """The number of threads of a call; 0 stands for get_num_threads()."""

    @property
    def device(self) -> Device:
        """The stream's device."""

    @property
    def node(self) -> int | None:
        """The memory node on which calls run; None for any."""

    def __eq__(self, other: object, /) -> bool: ...

    def __hash__(self) -> int: ...

    def __repr__(self) -> str: ...

    def __reduce__(self) -> tuple[Any, ...]: ...

    def __copy__(self) -> Self: ...

    def __deepcopy__(self, memo: object, /) -> Self: ...

class QuantizedWeights:
    """
    Quantized weights as one object: the arrays that quantize() returns or a checkpoint holds, and the settings that say how to read them. It is passed as w, without scales, biases or global_scale. It is immutable. It holds references to the arrays and copies nothing, so a change of an array changes the weights.
    """

    def __init__(self, w: gqmm._types.Array, scales: gqmm._types.Array, biases: gqmm._types.Array | None = None, *, global_scale: gqmm._types.Array | None = None, group_size: int | None = None, bits: int | None = None, mode: str | None = 'affine', transpose: bool | None = True) -> None:
        """
        w: the codes, uint32, of shape (…, N, K·bits/32) when transpose, else (…, K, N·bits/32).
        scales: shape (…, N, K/group_size) when transpose, else (…, K, N/group_size). They are float16, bfloat16 or float32 in affine mode. In other modes they are bytes: uint8, float8_e8m0fnu (mxfp4, mxfp8) or float8_e4m3fn (nvfp4).
        biases: affine mode needs them, and the other modes have none. Shape and types are as for scales.
        global_scale: only for nvfp4, float32: one value for each matrix of w, or a single one.
        group_size: weights that share a scale: 32, 64 (default) or 128 for affine, 32 for mxfp4 and mxfp8, 16 for nvfp4.
        bits: bits of a code: 1, 2, 3, 4 (default), 5, 6 or 8 for affine, 4 for mxfp4 and nvfp4, 8 for mxfp8.
        mode: 'affine', 'mxfp4', 'mxfp8' or 'nvfp4'.
        transpose: whether products are x @ w.T.
        Raises TypeError for an argument of a wrong kind. Raises ValueError for shapes, types or settings that contradict each other, as gather_qmm does.
        """

    @property
    def w(self) -> Any:
        """The array of codes."""

    @property
    def scales(self) -> Any:
        """The array of scales."""

    @property
    def biases(self) -> Any:
        """The array of biases in affine mode, else None."""

    @property
    def global_scale(self) -> Any:
        """The global scale, or None."""

    @property
    def mode(self) -> str:
        """The quantization mode."""

    @property
    def bits(self) -> int:
        """The number of bits of a code."""

    @property
    def group_size(self) -> int:
        """The number of weights that share a scale."""

    @property
    def transpose(self) -> bool:
        """Whether products are x @ w.T."""

    @property
    def shape(self) -> tuple[int, ...]:
        """
        The shape of the dequantized weights: (…, N, K) when transpose, else (…, K, N).
        """

    @property
    def nbytes(self) -> int:
        """The number of bytes of all arrays."""

    def __repr__(self) -> str: ...

    def __reduce__(self) -> tuple[Any, ...]: ...

    def __copy__(self) -> Self: ...

    def __deepcopy__(self, memo: object, /) -> Self: ...

class PackedWeights:
    """
    Quantized weights in the order in which the kernels read them. pack() makes them, and unpack() gives the arrays back. They are passed as w, without scales and biases. They are immutable. Results are bit-identical to those from the original arrays. A pickle holds the arrays, and reading it packs them again.
    """

    @property
    def mode(self) -> str:
        """The quantization mode."""

    @property
    def bits(self) -> int:
        """The number of bits of a code."""

    @property
    def group_size(self) -> int:
        """The number of weights that share a scale."""

    @property
    def transpose(self) -> bool:
        """Whether products are x @ w.T."""

    @property
    def shape(self) -> tuple[int, ...]:
        """
        The shape of the dequantized weights: (…, N, K) when transpose, else (…, K, N).
        """

    @property
    def nbytes(self) -> int:
        """The number of bytes that the packed weights take."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """
        Write a file that load() reads. It is a safetensors file with the settings in its metadata. The file is whole or absent. An existing regular file is replaced in one step and keeps its permissions. A symbolic link is followed. Anything else (a device, a named pipe, a folder) is never replaced. Raises OSError if the file cannot be written.
        """

    @staticmethod
    def load(path: str | os.PathLike[str]) -> PackedWeights:
        """
        Map into memory a file that save() wrote. Nothing is read before a product needs it, and processes share the memory. Raises OSError if the file cannot be read or is not such a file.
        """

    def __repr__(self) -> str: ...

    def __reduce__(self) -> tuple[Any, ...]: ...

    def __copy__(self) -> Self: ...

    def __deepcopy__(self, memo: object, /) -> Self: ...

class InstructionSet:
    """A family of CPU instructions that gqmm has kernels for."""

    @property
    def name(self) -> str:
        """
        The name that the environment variable GQMM_ISA takes, e.g. 'avx512vnni'.
        """

    @property
    def description(self) -> str:
        """The extensions that it needs."""

    @property
    def supported(self) -> bool:
        """Whether this machine has them."""

    def __repr__(self) -> str: ...

    def __reduce__(self) -> tuple[Any, ...]: ...

    def __copy__(self) -> Self: ...

    def __deepcopy__(self, memo: object, /) -> Self: ...

def instruction_sets() -> list[InstructionSet]:
    """
    List every instruction set that gqmm was built with, from the least to the most capable.
    """

def active_instruction_set() -> str:
    """
    Return the name of the instruction set in use. It is the most capable one that this machine supports, or the one that
    the environment variable GQMM_ISA names. Raises ValueError if GQMM_ISA names one that is unknown or unsupported.
    """

def available_threads() -> int:
    """
    Return the number of threads that the machine grants this process. It is the smallest of three numbers: the CPUs of the
    affinity mask, the CPU quota of the control group (rounded up), and GQMM_NUM_THREADS, or OMP_NUM_THREADS if that is
    not set. A changed mask counts at once, and a changed quota within a second. The variables are read once. Raises
    ValueError if GQMM_NUM_THREADS is not a whole number from 1 to 4096.
    """

def memory_nodes() -> list[tuple[int, tuple[int, ...]]]: ...

def get_num_threads() -> int:
    """
    Return the number of threads of a call whose stream gives none. It is what set_num_threads() was given last, or
    available_threads().
    """

def set_num_threads(threads: int) -> None:
    """
    Set the number of threads of calls whose stream gives none. It holds for the whole process, from the next call on. It may
    be larger than available_threads(). 0 stands for available_threads(). Raises ValueError if the number is negative or
    above 4096, and TypeError if it is not an integer.
    """

def version() -> str:
    """Return the version of the library."""

def numerics_contract() -> int:
    """
    Return the version of the contract about bits: 1, 2, …. It is raised by one when any result of any operator may get other
    bits, and stays the same otherwise. So results of two builds can be compared bit by bit if, and only if, their versions are
    equal, whatever version() says. A new operator does not raise it.
    """

class Result:
    """
    The owner of a result's memory. It lends the bytes (buffer protocol) and the array (DLPack).
    """

    def __dlpack__(self, **kwargs: object) -> object: ...

    def __dlpack_device__(self) -> tuple[int, int]: ...

def gather_qmm(x: object, w: object, scales: object, biases: object, lhs_indices: object, rhs_indices: object, transpose: bool | None, group_size: int | None, bits: int | None, mode: str | None, global_scale: object, sorted_indices: bool, missing: str, precision: str, stream: object, /) -> Any: ...

def quantized_matmul(x: object, w: object, scales: object, biases: object, transpose: bool | None, group_size: int | None, bits: int | None, mode: str | None, precision: str, stream: object, /) -> Any: ...

def gather_mm(a: object, b: object, lhs_indices: object, rhs_indices: object, sorted_indices: bool, stream: object, /) -> Any: ...

def quantize(w: object, group_size: int | None, bits: int | None, mode: str | None, global_scale: object, stream: object, /) -> tuple[Any, ...]: ...

def dequantize(w: object, scales: object, biases: object, group_size: int | None, bits: int | None, mode: str | None, global_scale: object, dtype: object, stream: object, /) -> Any: ...

def pack(w: object, scales: object, biases: object, group_size: int | None, bits: int | None, mode: str | None, transpose: bool | None, global_scale: object, stream: object, /) -> PackedWeights: ...

class ExpertOwners:
    """
    The ranks that hold each expert of a layer. Objects are immutable. Functions that take owners also take what this class is made of.
    """

    def __init__(self, owners: object) -> None:
        """
        owners: an integer array of shape (E,), the rank of each expert; or a sequence with, for each expert, its rank or a
        tuple of the ranks that hold a replica. Raises ValueError if an expert has no rank, or if a rank is negative or named
        twice for an expert.
        """

    @staticmethod
    def contiguous(num_experts: int, ranks: int) -> ExpertOwners:
        """
        Place neighbours together: expert e belongs to rank e * ranks // num_experts.
        """

    @staticmethod
    def round_robin(num_experts: int, ranks: int) -> ExpertOwners:
        """Place experts by turns: expert e belongs to rank e % ranks."""

    @staticmethod
    def by_load(counts: object, ranks: int, extra_replicas: int = 0) -> ExpertOwners:
        """
        Place experts by measured load. counts: an integer array of shape (E,), how often each expert was chosen. The experts with the most load for each
        of their replicas get extra_replicas more, at most one on each rank. Ranks hold at most
        ceil((len(counts) + extra_replicas) / ranks) experts. Raises ValueError for negative numbers.
        """

    @property
    def num_experts(self) -> int:
        """The number of experts."""

    def ranks_of(self, expert: int) -> tuple[int, ...]:
        """
        Return the ranks that hold an expert. Raises ValueError if there is no such expert.
        """

    def experts_of(self, rank: int) -> numpy.typing.NDArray[numpy.int64]:
        """
        Return the experts that a rank holds, ascending. Weights of that rank have their matrices in this order.
        """

    def __repr__(self) -> str: ...

    def __reduce__(self) -> tuple[Any, ...]: ...

    def __copy__(self) -> Self: ...

    def __deepcopy__(self, memo: object, /) -> Self: ...

class DispatchPlan:
    """
    Where the rows of one rank's tokens go, and where the results return to. Objects are immutable. If several ranks hold an
    expert, slot j of token t takes number (t + j) % n of the n.
    """

    def __init__(self, topk_ids: object, owners: object, rank: int, ranks: int, num_experts: int) -> None:
        """
        topk_ids: any integer type, shape (..., k), the experts of this rank's tokens among all experts. A slot with a
        negative id is nobody's; it stays zero. owners: an ExpertOwners, or what it is made of. rank and ranks: the number of
        this rank, and how many there are. Raises ValueError if ids, ranks or owners are out of range.
        """

    @property
    def rank(self) -> int:
        """The number of this rank."""

    @property
    def ranks(self) -> int:
        """How many ranks there are."""

    @property
    def num_experts(self) -> int:
        """The number of experts on all ranks."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of topk_ids."""

    @property
    def send_counts(self) -> numpy.typing.NDArray[numpy.int64]:
        """
        How many rows each rank needs, shape (ranks,). That of this rank counts rows that need not be sent.
        """

    @property
    def recv_counts(self) -> numpy.typing.NDArray[numpy.int64]:
        """
        How many results each rank returns, one for each slot that it computes, shape (ranks,).
        """

    @property
    def send_rows(self) -> numpy.typing.NDArray[numpy.int64]:
        """The token of each row to send, sorted by rank and then by token."""

    @property
    def send_ids(self) -> numpy.typing.NDArray[numpy.int32]:
        """
        The experts of each row to send, shape (rows, k). Slots that another rank computes have -1.
        """

    @property
    def slot_of(self) -> numpy.typing.NDArray[numpy.int64]:
        """
        The slot of each result, token * k + slot, sorted by rank and then by slot.
        """

    def __repr__(self) -> str: ...

    def __copy__(self) -> Self: ...

    def __deepcopy__(self, memo: object, /) -> Self: ...

def pack_rows(plan: DispatchPlan, x: object, stream: object, /) -> Any: ...

def local_ids(ids: object, owners: object, rank: int, /) -> Any: ...

def pack_results(slots: object, ids: object, stream: object, /) -> Any: ...

def return_counts(ids: object, row_counts: object, /) -> Any: ...

def unpack_results(plan: DispatchPlan, received: object, stream: object, /) -> Any: ...

def combine(plan: DispatchPlan, slots: object, topk_weights: object, stream: object, /) -> Any: ...

class ExpertLayer:
    def __init__(self, engine: object, gate: object, up: object, down: object, owners: object, activation: tuple[object, ...], gate_up_order: str, gate_bias: object, up_bias: object, down_bias: object, shared: tuple[object, ...] | None, precision: str, stream: object, /) -> None: ...

    def __call__(self, x: object, topk_ids: object, topk_weights: object, shared_scale: object, /) -> Any: ...

def gather_qmm_vjp(dy: object, x: object, weights: object, lhs_indices: object, rhs_indices: object, sorted_indices: bool, missing: str, wrt: object, stream: object, /) -> dict[str, Any]: ...

def quantized_matmul_vjp(dy: object, x: object, weights: object, wrt: object, stream: object, /) -> dict[str, Any]: ...

def gather_mm_vjp(dy: object, a: object, b: object, lhs_indices: object, rhs_indices: object, sorted_indices: bool, wrt: object, stream: object, /) -> dict[str, Any]: ...

def grouped_qmm(x: object, weights: object, offsets: object, rows: str, precision: str, stream: object, out: object, /) -> Any: ...

def grouped_mm(x: object, b: object, offsets: object, rows: str, stream: object, out: object, /) -> Any: ...

def grouped_qmm_vjp(dy: object, x: object, weights: object, offsets: object, rows: str, wrt: object, stream: object, /) -> dict[str, Any]: ...

def grouped_mm_vjp(dy: object, x: object, b: object, offsets: object, rows: str, wrt: object, stream: object, /) -> dict[str, Any]: ...

def rms_norm(x: object, weight: object, eps: float, out: object, stream: object, /) -> Any: ...

def layer_norm(x: object, weight: object, bias: object, eps: float, out: object, stream: object, /) -> Any: ...

def softmax(x: object, axes: tuple[int, ...] | None, out: object, stream: object, /) -> Any: ...

def rope(x: object, dims: int, traditional: bool, base: float | None, scale: float, offset: object, freqs: object, out: object, stream: object, /) -> Any: ...

def depthwise_conv1d(x: object, weight: object, stride: int, padding_before: int, padding_after: int, dilation: int, out: object, stream: object, /) -> Any: ...

def gated_delta_update(q: object, k: object, v: object, g: object, beta: object, state: object, mask: object, out: object, state_out: object, stream: object, /) -> tuple[Any, Any]: ...

def ssm_update(hidden_states: object, A_log: object, B: object, C: object, D: object, dt: object, dt_bias: object, state: object, smallest: float, largest: float, mask: object, lengths: object, out: object, state_out: object, stream: object, /) -> tuple[Any, Any]: ...

def scaled_dot_product_attention(q: object, k: object, v: object, scale: float, mask: object, sinks: object, origin: object, out: object, stream: object, /) -> Any: ...

def quantized_scaled_dot_product_attention(q: object, q_keys: object, q_values: object, scale: float, mask: object, origin: object, group_size: int, bits: int, out: object, stream: object, /) -> Any: ...

def check_activation(activation: tuple[object, ...], /) -> None: ...

def activate(gate: object, up: object, activation: tuple[object, ...], out: object, stream: object, /) -> Any: ...

def moe_combine(slots: object, topk_weights: object, out: object, stream: object, /) -> Any: ...

def moe_ffn(x: object, topk_ids: object, topk_weights: object, gate: object, up: object, down: object, activation: tuple[object, ...], gate_up_order: str, gate_bias: object, up_bias: object, down_bias: object, router_weight_on_input: bool, missing: str, local_experts: object, shared: tuple[object, ...] | None, precision: str, stream: object, out: object, /) -> Any: ...

def moe_ffn_vjp(dy: object, x: object, topk_ids: object, topk_weights: object, gate: object, up: object, down: object, activation: tuple[object, ...], gate_up_order: str, gate_bias: object, up_bias: object, down_bias: object, router_weight_on_input: bool, missing: str, local_experts: object, shared: tuple[object, ...] | None, precision: str, wrt: object, stream: object, /) -> dict[str, Any]: ...

def formats() -> list[tuple[str, int, tuple[int, ...], int, bool, str, str | None, bool, bool]]: ...

def format_texts() -> dict[str, str]: ...

def unpack(w: object, like: object, /) -> tuple[Any, ...]: ...
