"""Functions that make an object of gqmm again when its pickle is read."""

from __future__ import annotations

from typing import Any

from gqmm import _gqmm
from gqmm._gqmm import InstructionSet, PackedWeights, QuantizedWeights


def quantized_weights(
    w: Any, scales: Any, biases: Any, global_scale: Any, group_size: int, bits: int, mode: str, transpose: bool
) -> QuantizedWeights:
    """Make QuantizedWeights from the arrays and settings in a pickle."""
    return QuantizedWeights(
        w, scales, biases, global_scale=global_scale, group_size=group_size, bits=bits, mode=mode, transpose=transpose
    )


def packed_weights(parts: tuple[Any, ...], group_size: int, bits: int, mode: str, transpose: bool) -> PackedWeights:
    """Pack the arrays of a pickle, which unpack returned. A pickle does not contain the kernels' order."""
    w, scales, biases, global_scale = parts
    return _gqmm.pack(w, scales, biases, group_size, bits, mode, transpose, global_scale, None)


def instruction_set(name: str) -> InstructionSet:
    """Find the instruction set of this name in the gqmm that reads the pickle.

    Raises:
        ValueError: this build of gqmm has none of this name.
    """
    for candidate in _gqmm.instruction_sets():
        if candidate.name == name:
            return candidate
    raise ValueError(f"[pickle] this build of gqmm has no instruction set {name!r}; install one that was built with it")
