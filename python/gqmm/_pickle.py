"""What pickles of gqmm's objects call to make them again."""

from __future__ import annotations

from typing import Any

from gqmm import _gqmm
from gqmm._gqmm import InstructionSet, PackedWeights


def packed_weights(parts: tuple[Any, ...], group_size: int, bits: int, mode: str, transpose: bool) -> PackedWeights:
    """Pack again what unpack returned: w, scales, biases and global_scale. The kernels' order is no part of a pickle."""
    w, scales, biases, global_scale = parts
    return _gqmm.pack(w, scales, biases, group_size, bits, mode, transpose, global_scale, None)


def instruction_set(name: str) -> InstructionSet:
    """The instruction set of this name, as the machine that reads the pickle has it.

    Raises:
        ValueError: this build of gqmm has none of this name.
    """
    for candidate in _gqmm.instruction_sets():
        if candidate.name == name:
            return candidate
    raise ValueError(f"[pickle] this build of gqmm has no instruction set {name!r}; install one that was built with it")
