"""
Compiled part of gqmm. Use the functions of the package gqmm, which document it.
"""

import os
from typing import Any, Self


class Device:
    """A processor that operators run on. There is one: the CPU."""

    def __init__(self, type: str = 'cpu', index: int = 0) -> None:
        """Raises ValueError for anything but ('cpu', 0)."""

    @property
    def type(self) -> str:
        """Kind of device: 'cpu'."""

    @property
    def index(self) -> int:
        """Number among the devices of its kind."""

    def __eq__(self, other: object, /) -> bool: ...

    def __hash__(self) -> int: ...

    def __repr__(self) -> str: ...

    def __reduce__(self) -> tuple[Any, ...]: ...

    def __copy__(self) -> Self: ...

    def __deepcopy__(self, memo: object, /) -> Self: ...

class Stream:
    """
    Where an operator runs, and with how many threads. A CPU stream has no queue: an operator runs in the caller's thread and has finished when it returns.
    """

    def __init__(self, threads: int = 0, device: Device = Device()) -> None:
        """
        threads: threads of a call, the caller's included; 0: get_num_threads(). Raises ValueError if negative or above 4096.
        """

    @property
    def threads(self) -> int:
        """Threads of a call; 0: get_num_threads()."""

    @property
    def device(self) -> Device:
        """The stream's device."""

    def __eq__(self, other: object, /) -> bool: ...

    def __hash__(self) -> int: ...

    def __repr__(self) -> str: ...

    def __reduce__(self) -> tuple[Any, ...]: ...

    def __copy__(self) -> Self: ...

    def __deepcopy__(self, memo: object, /) -> Self: ...

class PackedWeights:
    """
    Quantized weights in the order in which the kernels read them; pack() makes them, unpack() gives the arrays back. Passed as w, without scales and biases. Immutable; results are bit-identical to those from the original arrays. A pickle holds the arrays, which are packed again where it is read.
    """

    @property
    def mode(self) -> str:
        """Quantization mode."""

    @property
    def bits(self) -> int:
        """Bits of a code."""

    @property
    def group_size(self) -> int:
        """Weights that share a scale."""

    @property
    def transpose(self) -> bool:
        """Whether products are x @ w.T."""

    @property
    def shape(self) -> tuple[int, ...]:
        """
        Shape of the weights they stand for: (…, N, K) when transpose, else (…, K, N).
        """

    @property
    def nbytes(self) -> int:
        """Bytes of memory held."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """
        Write a file that load() reads: safetensors, with the settings among its metadata. The file is whole or absent. An existing regular file is replaced in one step and keeps its permissions; a symbolic link is followed; anything else (a device, a named pipe, a folder) is never replaced. Raises OSError if it cannot be written.
        """

    @staticmethod
    def load(path: str | os.PathLike[str]) -> PackedWeights:
        """
        Map a file that save() wrote into memory: nothing is read before a product needs it, and processes share it. Raises OSError if the file cannot be read or is not such a file.
        """

    def __repr__(self) -> str: ...

    def __reduce__(self) -> tuple[Any, ...]: ...

    def __copy__(self) -> Self: ...

    def __deepcopy__(self, memo: object, /) -> Self: ...

class InstructionSet:
    """A family of CPU instructions that gqmm has kernels for."""

    @property
    def name(self) -> str:
        """As the environment variable GQMM_ISA takes it, e.g. 'avx512'."""

    @property
    def description(self) -> str:
        """The extensions it needs."""

    @property
    def supported(self) -> bool:
        """Whether this machine has them."""

    def __repr__(self) -> str: ...

    def __reduce__(self) -> tuple[Any, ...]: ...

    def __copy__(self) -> Self: ...

    def __deepcopy__(self, memo: object, /) -> Self: ...

def instruction_sets() -> list[InstructionSet]:
    """
    Every instruction set that gqmm was built with, from the least to the most capable.
    """

def active_instruction_set() -> str:
    """
    Name of the instruction set in use: the most capable that is supported, or the one that the environment variable
    GQMM_ISA names. Raises ValueError if GQMM_ISA names one that is unknown or unsupported.
    """

def available_threads() -> int:
    """
    Threads that the machine grants this process: the smallest of the affinity mask, the CPU quota of its control group
    (rounded up) and GQMM_NUM_THREADS, or else OMP_NUM_THREADS. A changed mask counts at once, a changed quota within a
    second; the variables are read once. Raises ValueError if GQMM_NUM_THREADS is not a whole number from 1 to 4096.
    """

def get_num_threads() -> int:
    """
    Threads of a call whose stream names no number: what set_num_threads() said last, or available_threads().
    """

def set_num_threads(threads: int) -> None:
    """
    Sets the number of threads of calls whose stream names none, for the whole process and from the next call on. It may be
    larger than available_threads(); 0: available_threads() again. Raises ValueError if it is negative or above 4096,
    TypeError if it is not an integer.
    """

def version() -> str:
    """Version of the library."""

class Result:
    """
    Owner of a result's memory: lends its bytes (buffer protocol) and the array (DLPack).
    """

    def __dlpack__(self, **kwargs: object) -> object: ...

    def __dlpack_device__(self) -> tuple[int, int]: ...

def gather_qmm(x: object, w: object, scales: object, biases: object, lhs_indices: object, rhs_indices: object, transpose: bool | None, group_size: int | None, bits: int | None, mode: str | None, global_scale: object, sorted_indices: bool, precision: str, stream: object, /) -> Any: ...

def quantized_matmul(x: object, w: object, scales: object, biases: object, transpose: bool | None, group_size: int | None, bits: int | None, mode: str | None, precision: str, stream: object, /) -> Any: ...

def gather_mm(a: object, b: object, lhs_indices: object, rhs_indices: object, sorted_indices: bool, stream: object, /) -> Any: ...

def quantize(w: object, group_size: int | None, bits: int | None, mode: str | None, global_scale: object, stream: object, /) -> tuple[Any, ...]: ...

def dequantize(w: object, scales: object, biases: object, group_size: int | None, bits: int | None, mode: str | None, global_scale: object, dtype: object, stream: object, /) -> Any: ...

def pack(w: object, scales: object, biases: object, group_size: int | None, bits: int | None, mode: str | None, transpose: bool | None, global_scale: object, stream: object, /) -> PackedWeights: ...

def unpack(w: object, like: object, /) -> tuple[Any, ...]: ...
