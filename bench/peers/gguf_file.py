"""Writes a model of llama.cpp with random weights, as a GGUF file (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md)."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any, BinaryIO, ClassVar

import numpy as np

from .ggml import Ggml

ALIGNMENT = 32


@dataclass(frozen=True)
class Tensor:
    """A tensor by its name. The first dimension is the contiguous one, as in ggml."""

    name: str
    kind: str
    shape: tuple[int, ...]
    size: float = 0.0
    """The standard deviation of random elements."""
    value: float | None = None
    """The value of all elements of a float32 tensor. With None they are random."""


class RandomBlocks:
    """Blocks of ggml's formats: random codes, with scales that give the weights about the size of their tensor.

    Weights have the sizes of bench/mlx_lm/model.py. They decide how different the experts are that tokens choose, and so how many
    experts a prompt reads.
    """

    # the number of the type, and weights and bytes of a block
    KINDS: ClassVar = {
        "float32": (0, 1, 4),
        "q4_0": (Ggml.TYPES["q4_0"], 32, 18),
        "q4_K": (Ggml.TYPES["q4_K"], 256, 144),
        "mxfp4": (Ggml.TYPES["mxfp4"], 32, 17),
    }
    AT_ONCE = 1 << 16

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)

    def bytes_of(self, tensor: Tensor) -> int:
        _, weights, size = self.KINDS[tensor.kind]
        if tensor.shape[0] % weights != 0:
            raise ValueError(f"{tensor.name}: rows of {tensor.shape[0]} weights are not a multiple of {tensor.kind}'s {weights}")
        return int(np.prod(tensor.shape)) // weights * size

    def write(self, file: BinaryIO, tensor: Tensor) -> None:
        blocks = self.bytes_of(tensor) // self.KINDS[tensor.kind][2]
        for first in range(0, blocks, self.AT_ONCE):
            file.write(self.some(tensor, min(self.AT_ONCE, blocks - first)).tobytes())

    def some(self, tensor: Tensor, count: int) -> np.ndarray:
        if tensor.kind == "float32":
            if tensor.value is not None:
                return np.full(count, tensor.value, np.float32)
            return self.random.standard_normal(count, dtype=np.float32) * np.float32(tensor.size)
        blocks = self.random.integers(256, size=(count, self.KINDS[tensor.kind][2]), dtype=np.uint8)
        if tensor.kind == "mxfp4":
            blocks[:, 0] = 127 + round(math.log2(tensor.size / 2.93))  # the codes' root mean square is 2.93
        elif tensor.kind == "q4_0":
            blocks[:, :2] = np.array([0.22 * tensor.size], np.float16).view(np.uint8)
        else:  # q4_K: d · scale · code - dmin · minimum, with scales and minima from 0 to 63
            blocks[:, :4] = np.array([0.004 * tensor.size, 0.03 * tensor.size], np.float16).view(np.uint8)
        return blocks


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def _setting(name: str, value: Any) -> bytes:
    """Encode a setting: a text, a whole number (uint32), or another number (float32)."""
    if isinstance(value, str):
        return _text(name) + struct.pack("<I", 8) + _text(value)
    if isinstance(value, int):
        return _text(name) + struct.pack("<II", 4, value)
    return _text(name) + struct.pack("<If", 6, value)


def write_gguf(file: BinaryIO, settings: dict[str, Any], tensors: list[Tensor]) -> None:
    blocks, offset, infos = RandomBlocks(1), 0, b""
    for tensor in tensors:
        shape = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
        infos += _text(tensor.name) + shape + struct.pack("<IQ", blocks.KINDS[tensor.kind][0], offset)
        offset += -(-blocks.bytes_of(tensor) // ALIGNMENT) * ALIGNMENT
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(settings))
    header += b"".join(_setting(name, value) for name, value in settings.items()) + infos
    file.write(header.ljust(-(-len(header) // ALIGNMENT) * ALIGNMENT, b"\0"))
    for tensor in tensors:
        blocks.write(file, tensor)
        file.write(bytes(-file.tell() % ALIGNMENT))
    file.flush()
